/* What executorch's threadpool.h needs of the pthreadpool.h that the wheel does not ship. */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

struct pthreadpool;
typedef struct pthreadpool* pthreadpool_t;
void pthreadpool_destroy(pthreadpool_t threadpool);

#ifdef __cplusplus
}
#endif
