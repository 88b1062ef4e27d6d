"""Reading what lies on a disk: small files within a bound, plain and compressed streams."""
