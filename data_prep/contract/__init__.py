"""The ground of the house: what a prepared dataset is. Writer (`data_prep`) and reader (`trainer`) both stand on it."""
