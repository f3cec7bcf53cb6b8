"""Builds the website: runs every program, checks every claim, renders every page. Nothing else of genref imports it."""
