"""What a run does with a folder of photos before any network exists; nothing here imports torch."""
