"""Headers of the source images: what a result may take from them."""
