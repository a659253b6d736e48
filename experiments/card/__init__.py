"""What `+exp=dataset_card` says of a synthetic set: counts, a contact sheet, and the card that both are shown in."""
