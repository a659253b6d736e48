"""What is seen: public fundus datasets in, batches of images and labels out."""
