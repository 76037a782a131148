/* Memory for dev.himix.edge.NativeMemory: zeros that take no room until they are written. */
#include <jni.h>
#include <stdlib.h>

JNIEXPORT jobject JNICALL Java_dev_himix_edge_NativeMemory_calloc(JNIEnv *env, jclass self, jlong bytes) {
    (void)self;
    void *memory = calloc((size_t)bytes, 1);
    if (!memory) return NULL;
    jobject buffer = (*env)->NewDirectByteBuffer(env, memory, bytes);
    if (!buffer) free(memory);
    return buffer;
}

JNIEXPORT void JNICALL Java_dev_himix_edge_NativeMemory_free(JNIEnv *env, jclass self, jobject buffer) {
    (void)self;
    free((*env)->GetDirectBufferAddress(env, buffer));
}
