"""The largest numbers that are taken for meant: beyond them a slip would fill the memory.

They are far above what anybody needs and below what a large machine holds, and are the same in
files of settings and on the command line, which must load before NumPy and pydantic do.
"""

from __future__ import annotations

#: images of a dataset: their ids, classes and splits are held in memory, some 3 GB
MOST_IMAGES = 10_000_000
#: pixels on a side: of doubles, an image takes 0.13 GB, and a rendering holds six
LARGEST_SIDE = 4096
#: patches of an image: attention between them takes 1 GB for each image and head
MOST_PATCHES = 16_384
#: numbers that a network learns: 4 GB, and three times as much for gradient and moments
MOST_WEIGHTS = 10**9
#: seeds: two are added, and the sum must fit in the 32 bits of scikit-learn's
LARGEST_SEED = 2**31 - 1
#: parts of a dataset, trials of a search, repetitions of a training: each is a folder or a training
MOST_PARTS = 10_000
#: processes side by side, on this machine or on a cluster
MOST_PROCESSES = 1024
#: resamplings and steps of a loop, of which a number each is kept
MOST_STEPS = 10_000_000
#: passes over the training images, of each of which a line is kept
MOST_EPOCHS = 100_000
#: arcsec per pixel: of an array of radio dishes and of a wide-field survey; one that is given in
#: degrees by mistake is less
PIXEL_SCALES = (1e-3, 10.0)
#: clumps of mass in a lens: each is a pass over the pixels
MOST_CLUMPS = 1_000_000
