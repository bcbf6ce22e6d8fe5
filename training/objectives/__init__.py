"""The terms that training minimises."""
