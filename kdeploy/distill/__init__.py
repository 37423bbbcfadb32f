"""Teach a student: losses say what is learned, schemes say who teaches whom."""
