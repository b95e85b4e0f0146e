"""What works on the project itself, and is no part of what is deployed."""
