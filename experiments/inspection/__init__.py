"""What `+exp=inspect_data` looks at: numbers, pictures, and the page that shows both."""
