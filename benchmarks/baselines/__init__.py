"""What seam-fast is measured beside, and the float64 results that every side must agree with before its time counts."""
