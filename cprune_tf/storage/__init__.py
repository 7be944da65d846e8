"""Files, locks and plain values that a killed process leaves whole."""
