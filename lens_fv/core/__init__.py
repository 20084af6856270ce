"""What every room stands on: artefacts and where they came from, the store of results, files, intervals, display, progress."""
