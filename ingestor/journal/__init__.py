"""The journal: every frame as it came in, kept so that the day can be run again.

`format` says what the bytes are and `entries` reads them back; `writer` takes frames from a live
feed and hands them to the thread in `recorder`, which alone touches the disk; `compress` is the
process that makes a finished segment small. `segments` finds what there is of some days, and
`feed` turns it into the records that were live.
"""
