/*
 * ONNX Runtime for dev.himix.edge.OnnxGraph, on Android and on a desktop alike.
 *
 * Tensors live in direct ByteBuffers that Java owns. A buffer that is given both as an input and as an output is the
 * same memory for both: that is how the decoder's keys and values are extended in place. ONNX Runtime is opened at run
 * time, so this library links to nothing but libc and libdl.
 */
#include <dlfcn.h>
#include <jni.h>
#include <stdlib.h>
#include <string.h>

#include "onnxruntime_c_api.h"

/* The oldest API with everything used here: any later ONNX Runtime serves it too. */
enum { API_VERSION = 17, MESSAGE_BYTES = 512, MAX_RANK = 8 };

static const OrtApi *ort;
static OrtEnv *environment;
static OrtMemoryInfo *memory;

static void throw_message(JNIEnv *env, const char *message) {
    char line[MESSAGE_BYTES];
    size_t length = 0;
    while (length + 1 < sizeof line && message[length] && message[length] != '\n') {
        /* NewStringUTF wants modified UTF-8; ONNX Runtime's messages are ASCII but for paths */
        line[length] = (message[length] & 0x80) ? '?' : message[length];
        length++;
    }
    line[length] = 0;
    jclass kind = (*env)->FindClass(env, "dev/himix/edge/InputException");
    if (kind) (*env)->ThrowNew(env, kind, line);
}

/* Whether a call went well; otherwise its message is now a pending Java exception. */
static int ok(JNIEnv *env, OrtStatus *status) {
    if (!status) return 1;
    throw_message(env, ort->GetErrorMessage(status));
    ort->ReleaseStatus(status);
    return 0;
}

JNIEXPORT void JNICALL Java_dev_himix_edge_OnnxGraph_load(JNIEnv *env, jclass self, jstring library) {
    (void)self;
    if (ort) return;
    const char *path = (*env)->GetStringUTFChars(env, library, NULL);
    if (!path) return;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    (*env)->ReleaseStringUTFChars(env, library, path);
    if (!handle) {
        const char *why = dlerror();
        throw_message(env, why ? why : "ONNX Runtime's library cannot be opened");
        return;
    }
    const OrtApiBase *(*base)(void) = (const OrtApiBase *(*)(void))dlsym(handle, "OrtGetApiBase");
    const OrtApi *api = base ? base()->GetApi(API_VERSION) : NULL;
    if (!api) {
        throw_message(env, "this ONNX Runtime is older than 1.17");
        return;
    }
    ort = api;
    if (!ok(env, ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "himix", &environment)) ||
        !ok(env, ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory)))
        ort = NULL;
}

JNIEXPORT jstring JNICALL Java_dev_himix_edge_OnnxGraph_version(JNIEnv *env, jclass self, jstring library) {
    (void)self;
    const char *path = (*env)->GetStringUTFChars(env, library, NULL);
    if (!path) return NULL;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    (*env)->ReleaseStringUTFChars(env, library, path);
    const OrtApiBase *(*base)(void) =
        handle ? (const OrtApiBase *(*)(void))dlsym(handle, "OrtGetApiBase") : NULL;
    return (*env)->NewStringUTF(env, base ? base()->GetVersionString() : "");
}

JNIEXPORT jlong JNICALL Java_dev_himix_edge_OnnxGraph_open(JNIEnv *env, jclass self, jstring file, jint threads) {
    (void)self;
    OrtSessionOptions *options = NULL;
    OrtSession *session = NULL;
    const char *path = (*env)->GetStringUTFChars(env, file, NULL);
    if (!path) return 0;
    if (ok(env, ort->CreateSessionOptions(&options)) && ok(env, ort->SetSessionLogSeverityLevel(options, 3)) &&
        // or int8 sums overflow on x86 without VNNI, and the tower's threads spin beside the decoder's
        ok(env, ort->AddSessionConfigEntry(options, "session.x64quantprecision", "1")) &&
        ok(env, ort->AddSessionConfigEntry(options, "session.force_spinning_stop", "1")) &&
        (!threads || ok(env, ort->SetIntraOpNumThreads(options, threads))))
        ok(env, ort->CreateSession(environment, path, options, &session));
    if (options) ort->ReleaseSessionOptions(options);
    (*env)->ReleaseStringUTFChars(env, file, path);
    return (jlong)(intptr_t)session;
}

JNIEXPORT void JNICALL Java_dev_himix_edge_OnnxGraph_close(JNIEnv *env, jclass self, jlong session) {
    (void)env, (void)self;
    ort->ReleaseSession((OrtSession *)(intptr_t)session);
}

/* What is known of an input or output, to be released; NULL if there is none of that name, or an exception pends. */
static OrtTypeInfo *info_of(JNIEnv *env, const OrtSession *session, jboolean output, jstring name) {
    OrtAllocator *allocator = NULL;
    OrtTypeInfo *info = NULL;
    size_t count = 0;
    if (!ok(env, ort->GetAllocatorWithDefaultOptions(&allocator)) ||
        !ok(env, output ? ort->SessionGetOutputCount(session, &count) : ort->SessionGetInputCount(session, &count)))
        return NULL;
    const char *wanted = (*env)->GetStringUTFChars(env, name, NULL);
    if (!wanted) return NULL;
    for (size_t i = 0; i < count; i++) {
        char *here = NULL;
        if (!ok(env, output ? ort->SessionGetOutputName(session, i, allocator, &here)
                            : ort->SessionGetInputName(session, i, allocator, &here)))
            break;
        int same = strcmp(here, wanted) == 0;
        if (!ok(env, ort->AllocatorFree(allocator, here))) break;
        if (!same) continue;
        ok(env, output ? ort->SessionGetOutputTypeInfo(session, i, &info)
                       : ort->SessionGetInputTypeInfo(session, i, &info));
        break;
    }
    (*env)->ReleaseStringUTFChars(env, name, wanted);
    return info;
}

/* The fixed shape of an input or output, or null if there is none of that name; -1 stands for a dynamic dimension. */
JNIEXPORT jlongArray JNICALL Java_dev_himix_edge_OnnxGraph_shape(JNIEnv *env, jclass self, jlong handle,
                                                                jboolean output, jstring name) {
    (void)self;
    const OrtTensorTypeAndShapeInfo *tensor = NULL;
    int64_t dims[MAX_RANK];
    size_t rank = 0;
    jlongArray found = NULL;
    OrtTypeInfo *info = info_of(env, (const OrtSession *)(intptr_t)handle, output, name);
    if (info && ok(env, ort->CastTypeInfoToTensorInfo(info, &tensor)) && tensor &&
        ok(env, ort->GetDimensionsCount(tensor, &rank)) && rank <= MAX_RANK &&
        ok(env, ort->GetDimensions(tensor, dims, rank))) {
        found = (*env)->NewLongArray(env, (jsize)rank);
        if (found) (*env)->SetLongArrayRegion(env, found, 0, (jsize)rank, (const jlong *)dims);
    }
    if (info) ort->ReleaseTypeInfo(info);
    return found;
}

/* ONNX's number of an input's or output's element type, 0 if there is none of that name. */
JNIEXPORT jint JNICALL Java_dev_himix_edge_OnnxGraph_type(JNIEnv *env, jclass self, jlong handle, jboolean output,
                                                         jstring name) {
    (void)self;
    const OrtTensorTypeAndShapeInfo *tensor = NULL;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    OrtTypeInfo *info = info_of(env, (const OrtSession *)(intptr_t)handle, output, name);
    if (info && ok(env, ort->CastTypeInfoToTensorInfo(info, &tensor)) && tensor)
        ok(env, ort->GetTensorElementType(tensor, &type));
    if (info) ort->ReleaseTypeInfo(info);
    return (jint)type;
}

/* A view of a direct buffer; NULL with a pending exception if the buffer is not direct or too small. */
static OrtValue *tensor_of(JNIEnv *env, jobject buffer, jint type, jlongArray shape) {
    int64_t dims[MAX_RANK];
    jsize rank = (*env)->GetArrayLength(env, shape);
    void *data = (*env)->GetDirectBufferAddress(env, buffer);
    jlong bytes = (*env)->GetDirectBufferCapacity(env, buffer);
    OrtValue *value = NULL;
    if (!data || bytes < 0 || rank > MAX_RANK) {
        throw_message(env, "a tensor has to be a direct buffer of at most 8 dimensions");
        return NULL;
    }
    (*env)->GetLongArrayRegion(env, shape, 0, rank, (jlong *)dims);
    if (!ok(env, ort->CreateTensorWithDataAsOrtValue(memory, data, (size_t)bytes, dims, (size_t)rank,
                                                     (ONNXTensorElementDataType)type, &value)))
        return NULL;
    return value;
}

/*
 * Runs the graph on `count` tensors, of which the first `inputs` are inputs and the others outputs. Outputs are written
 * into their buffers; one whose shape is not what the graph computes is refused.
 */
JNIEXPORT void JNICALL Java_dev_himix_edge_OnnxGraph_run(JNIEnv *env, jclass self, jlong handle, jint inputs,
                                                        jobjectArray names, jobjectArray buffers, jintArray types,
                                                        jobjectArray shapes) {
    (void)self;
    jsize count = (*env)->GetArrayLength(env, names);
    jstring *strings = calloc((size_t)count + 1, sizeof *strings);
    const char **texts = calloc((size_t)count + 1, sizeof *texts);
    OrtValue **values = calloc((size_t)count + 1, sizeof *values);
    jint *kinds = (*env)->GetIntArrayElements(env, types, NULL);
    int good = strings && texts && values && kinds && (*env)->EnsureLocalCapacity(env, count + 16) == 0;
    for (jsize i = 0; good && i < count; i++) {
        strings[i] = (jstring)(*env)->GetObjectArrayElement(env, names, i);
        jobject buffer = (*env)->GetObjectArrayElement(env, buffers, i);
        jlongArray shape = (jlongArray)(*env)->GetObjectArrayElement(env, shapes, i);
        texts[i] = (*env)->GetStringUTFChars(env, strings[i], NULL);
        values[i] = texts[i] ? tensor_of(env, buffer, kinds[i], shape) : NULL;
        good = values[i] != NULL;
        (*env)->DeleteLocalRef(env, buffer);
        (*env)->DeleteLocalRef(env, shape);
    }
    if (good)
        ok(env, ort->Run((OrtSession *)(intptr_t)handle, NULL, texts, (const OrtValue *const *)values, (size_t)inputs,
                         texts + inputs, (size_t)(count - inputs), values + inputs));
    /* with an exception pending, JNI allows releasing and nothing else */
    for (jsize i = 0; strings && texts && values && i < count; i++) {
        if (values[i]) ort->ReleaseValue(values[i]);
        if (texts[i]) (*env)->ReleaseStringUTFChars(env, strings[i], texts[i]);
        if (strings[i]) (*env)->DeleteLocalRef(env, strings[i]);
    }
    if (kinds) (*env)->ReleaseIntArrayElements(env, types, kinds, JNI_ABORT);
    free(values);
    free(texts);
    free(strings);
}
