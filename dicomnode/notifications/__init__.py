"""Telling people what happened: what is worth a message, in which words, and sending it until it arrives."""
