"""A stereo task with two inputs: one file each for task, data set, likelihood, method, objective, score, network."""
