"""The journal: every frame as it came in, so that the day can be run again. It knows no vendor.

`recorder` takes frames from a live feed and hands them to a thread, which alone touches the disk,
through `segment_writer`; that also compresses what is done. `reader` finds what there is of some
days and yields its frames. `segments` knows the files of a folder, and `format` what their bytes
are. A feed's own module plays its journal through its own decoder.
"""
