"""What make_parity.py is made of: cases, the frameworks that answer them, and the comparison."""
