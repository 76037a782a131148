plugins {
    `java-library`
}

// Everything but the screen: plain Java 8 without lambdas, so that dx converts it too (see build_apk.py).
java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

tasks.compileJava {
    options.release = 8
}

tasks.compileTestJava {
    options.release = 17
}

dependencies {
    testImplementation("junit:junit:4.13.2")
}

// `make test-android` makes what the tests compare with, and the native library for this computer
val made = rootDir.resolve("../build/android")

tasks.test {
    systemProperty("himix.suite", made.resolve("suite"))
    systemProperty("himix.half", made.resolve("half"))
    systemProperty("himix.bundle", rootDir.resolve("../bundles/nano-onnx-int8"))
    systemProperty("himix.jni", made.resolve("jvm/libhimix_onnx.so"))
    systemProperty("himix.onnxruntime", made.resolve("packages/onnxruntime/linux/libonnxruntime.so"))
    systemProperty("himix.python", rootDir.resolve("../.venv/bin/python"))
    systemProperty("himix.root", rootDir.resolve(".."))
}
