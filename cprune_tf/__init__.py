"""cprune_tf: prunes Keras CNNs with the compiler in the loop, for one given device."""
