"""For people, from Python and from a shell: photos by `classifier.Classifier`, train jobs by `train_jobs.TrainJobs`."""
