#include "kernels.h"

/* The number that a caller compares with its own before it calls anything else. */
EXPORT int32_t edgekiln_abi(void) { return EDGEKILN_ABI; }
