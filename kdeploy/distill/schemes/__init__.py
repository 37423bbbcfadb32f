"""Schemes of distillation: who teaches whom."""
