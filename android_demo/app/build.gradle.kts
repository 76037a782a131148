plugins {
    id("com.android.application")
}

// ONNX Runtime for Android and its headers: the very files that build_apk.py puts into its APK
val onnxruntime = rootDir.resolve("../build/android/packages/onnxruntime")
val bundle = rootDir.resolve("../bundles/nano-onnx-int8")

// What build_apk.py puts into the assets: a bundle, and pictures to try.
abstract class StageAssets : Sync() {
    @get:OutputDirectory
    abstract val staged: DirectoryProperty

    override fun getDestinationDir(): File = staged.get().asFile
}

android {
    namespace = "dev.himix.edge.demo"
    compileSdk = 36

    defaultConfig {
        applicationId = "dev.himix.edge.demo"
        minSdk = 24
        targetSdk = 36
        versionCode = 1
        versionName = "0.1.0"
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
        externalNativeBuild {
            cmake {
                arguments += "-DONNXRUNTIME_HEADERS=${onnxruntime.resolve("headers")}"
            }
        }
    }

    // online: with the permission to fetch models. executorch: opens bundles of that target too, with its own library
    flavorDimensions += listOf("runtimes", "network")
    productFlavors {
        create("onnx") { dimension = "runtimes" }
        create("executorch") { dimension = "runtimes" }
        create("offline") { dimension = "network" }
        create("online") { dimension = "network" }
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
}

androidComponents {
    onVariants { variant ->
        val stage =
            tasks.register<StageAssets>("stageAssetsFor${variant.name.replaceFirstChar { it.uppercase() }}") {
                doFirst {
                    require(onnxruntime.resolve("jni").isDirectory) {
                        "$onnxruntime: not fetched; python android_demo/packages.py"
                    }
                    require(bundle.resolve("manifest.json").exists()) {
                        "$bundle: no bundle; himix export --target onnx --quant int8 --out $bundle"
                    }
                }
                from(bundle) { into("bundles/${bundle.name}") }
                from(rootDir.resolve("../himix_edge/assets/probe")) { into("samples") }
                from(rootDir.resolve("../LICENSE"), rootDir.resolve("../NOTICE")) { into("licences") }
            }
        variant.sources.assets?.addGeneratedSourceDirectory(stage, StageAssets::staged)
        if (onnxruntime.resolve("jni").isDirectory) { // else the task above says what to do
            variant.sources.jniLibs?.addStaticSourceDirectory(onnxruntime.resolve("jni").path)
        }
    }
}

dependencies {
    implementation(project(":core"))
    "executorchImplementation"("org.pytorch:executorch-android:${providers.gradleProperty("executorch").get()}")
}
