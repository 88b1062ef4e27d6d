"""Programs that stand in for vendors: sample files and the Polygon simulator."""
