"""Bayesian optimisation of the hyperparameters, around scikit-optimize's ``gp_minimize``."""
