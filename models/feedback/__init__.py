"""Answers of a service that wait for their labels, and what the labels then say."""
