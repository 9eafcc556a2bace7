/* What every kernel file shares. */
#ifndef EDGEKILN_KERNELS_H
#define EDGEKILN_KERNELS_H

#include <stdint.h>

/* Raise it when a function's arguments or meaning change; pipelines/native/__init__.py names the same number. */
#define EDGEKILN_ABI 1

/* Only functions marked so can be called from outside the library. */
#define EXPORT __attribute__((visibility("default")))

#endif
