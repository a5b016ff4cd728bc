"""jsnn beside other libraries: seconds per training step, memory, balancing and evaluation, on one network."""
