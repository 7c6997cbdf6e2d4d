"""What is in a corpus and what is wrong with it; whether a prepared dataset is what its manifest says."""
