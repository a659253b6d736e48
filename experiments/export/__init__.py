"""What `+exp=dataset_export` writes: where each image and each label lies in another layout."""
