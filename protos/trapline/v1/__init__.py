"""Version 1 of the messages and services; the `.proto` files beside this one are their manual."""
