"""One adapter per Google service, each on Google's own client."""
