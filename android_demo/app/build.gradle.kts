plugins {
    id("com.android.application")
}

val onnxruntime = "com.microsoft.onnxruntime:onnxruntime-android:1.27.0"
val bundle = rootDir.resolve("../bundles/nano-onnx-int8")
val headers = layout.buildDirectory.dir("onnxruntime")

val onnxruntimeHeaders by configurations.creating {
    isTransitive = false
}

dependencies {
    implementation(project(":core"))
    implementation(onnxruntime)
    onnxruntimeHeaders("$onnxruntime@aar")
}

// The C API's headers are inside the AAR.
val extractHeaders by tasks.registering(Sync::class) {
    from({ zipTree(onnxruntimeHeaders.singleFile) }) {
        include("headers/*.h", "headers/*.inc")
    }
    into(headers)
}

// What build_apk.py puts into the assets: a bundle, and pictures to try.
val stageAssets by tasks.registering(Sync::class) {
    doFirst {
        require(bundle.resolve("manifest.json").exists()) {
            "$bundle: no bundle; himix export --target onnx --quant int8 --out $bundle"
        }
    }
    from(bundle) { into("bundles/${bundle.name}") }
    from(rootDir.resolve("../himix_edge/assets/probe")) { into("samples") }
    from(rootDir.resolve("../LICENSE"), rootDir.resolve("../NOTICE")) { into("licences") }
    into(layout.buildDirectory.dir("staged-assets"))
}

android {
    namespace = "dev.himix.edge.demo"
    compileSdk = 35

    defaultConfig {
        applicationId = "dev.himix.edge.demo"
        minSdk = 24
        targetSdk = 34
        versionCode = 1
        versionName = "0.1.0"
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
        externalNativeBuild {
            cmake {
                arguments("-DONNXRUNTIME_HEADERS=${headers.get().asFile.resolve("headers")}")
            }
        }
    }

    externalNativeBuild {
        cmake {
            path = rootDir.resolve("core/src/main/c/CMakeLists.txt")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    sourceSets["main"].assets.srcDir(layout.buildDirectory.dir("staged-assets"))
}

tasks.named("preBuild") {
    dependsOn(stageAssets, extractHeaders)
}

tasks.configureEach {
    if (name.startsWith("configureCMake")) {
        dependsOn(extractHeaders)
    }
}
