"""Open Job Spec engines."""
