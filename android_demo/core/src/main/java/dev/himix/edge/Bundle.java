package dev.himix.edge;

import java.io.File;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * A bundle's folder, described by manifest.json. Nothing in it is trusted: every path has to stay inside the folder,
 * and {@link #verify} checks every file's size and SHA-256 before a runtime sees it.
 */
public final class Bundle {
    public static final String MANIFEST = "manifest.json";
    public static final String TOKENIZER = "tokenizer.json";
    static final long SCHEMA_VERSION = 1;
    static final long MAX_MANIFEST_BYTES = 4 << 20;
    static final String[] ROLES = {"vision_encoder", "vision_injector", "decoder"};
    private static final int MOST_FILES = 10_000;
    private static final String[] KNOWN = {
        "schema_version", "name", "target", "roles", "files", "model", "preprocessing", "quantisation",
        "chat_template", "generation", "context_capacity", "vision_tokens", "image_kv_id", "tools", "provenance",
        "weights", "parity", "selftest",
    };

    /** One question about one image whose exact answer is known. */
    public static final class SelfTestCase {
        public final String image;
        public final String prompt;
        public final String pixelsSha256;
        public final int[] tokenIds;
        public final String text;
        public final boolean ends; // whether the answer stops there; else it goes on
        public final boolean decisive; // whether the model is surer of it than devices round differently

        SelfTestCase(Fields test, int vocabSize) {
            test.only("image", "prompt", "pixels_sha256", "token_ids", "text", "ends", "decisive");
            image = test.string("image");
            prompt = test.string("prompt");
            pixelsSha256 = test.digest("pixels_sha256");
            tokenIds = test.integers("token_ids", 0, vocabSize - 1);
            text = test.string("text");
            ends = test.flag("ends", true);
            decisive = test.flag("decisive", true);
        }
    }

    public final File folder;
    public final String name;
    public final String target;
    public final String precision;
    public final String activations;
    public final ModelConfig model;
    public final ChatTemplate template;
    public final Resize.Filter filter;
    public final int capacity; // cache slots
    public final int visionTokens; // N
    public final String imageKvId;
    public final int maxNewTokens;
    public final double temperature;
    public final double topP;
    public final SelfTestCase selfTest;
    private final Map<String, List<String>> rolePaths = new LinkedHashMap<String, List<String>>();
    private final Map<String, FileRecord> files = new LinkedHashMap<String, FileRecord>();
    private final Map<String, FileRecord> byLowerCase = new HashMap<String, FileRecord>();
    private long decoderBytes;

    private Bundle(File folder, Fields manifest) {
        this.folder = folder;
        target = manifest.string("target");
        boolean executorch = target.equals("executorch") && ExecuTorch.loader() != null;
        if (!target.equals("onnx") && !executorch) {
            throw new InputException(
                    folder + ": a bundle for " + target + "; this app runs the target onnx (himix export --target onnx)");
        }
        name = manifest.plainName("name");
        refuseTiles(manifest);
        readFiles(manifest);
        model = new ModelConfig(manifest.object("model"));
        template = new ChatTemplate(manifest.object("chat_template"));
        Fields preprocessing = manifest.object("preprocessing");
        preprocessing.only("image_size", "method");
        if (preprocessing.integer("image_size", 1, ModelConfig.MOST_PIXELS) != model.imageSize) {
            throw preprocessing.wrong("image_size", "the model's, " + model.imageSize);
        }
        filter = Resize.Filter.of(preprocessing.string("method"), where());
        Fields quantisation = manifest.object("quantisation");
        quantisation.only("precision", "bits", "group_size", "method", "activations");
        precision = quantisation.string("precision");
        activations = quantisation.string("activations");
        capacity = (int) manifest.integer("context_capacity", 1, 1 << 24);
        visionTokens = (int) manifest.integer("vision_tokens", 1, 1 << 24);
        imageKvId = manifest.string("image_kv_id");
        Fields generation = manifest.object("generation");
        generation.only("max_new_tokens", "temperature", "top_p");
        maxNewTokens = (int) generation.integer("max_new_tokens", 1, 1 << 24);
        temperature = generation.number("temperature", 0, Double.MAX_VALUE);
        topP = generation.number("top_p", Double.MIN_VALUE, 1);
        selfTest = new SelfTestCase(manifest.object("selftest"), model.vocabSize);
        FileRecord.checkPath(selfTest.image, where());
        for (String needed : new String[] {TOKENIZER, selfTest.image}) {
            if (!files.containsKey(needed)) {
                throw new InputException(where() + ": files: no record of " + needed);
            }
        }
        manifest.only(KNOWN);
    }

    /** A model whose pictures are tiles in its text is refused by name, whichever of its fields says so. */
    private void refuseTiles(Fields manifest) {
        Fields preprocessing = manifest.object("preprocessing");
        boolean tiles = "pillow-tiles".equals(preprocessing.get("method")) || preprocessing.has("layout");
        if (tiles || manifest.object("model").has("images") || manifest.object("chat_template").has("image")) {
            throw new InputException(
                    where()
                            + ": this app does not take models whose pictures are tiles in the text (pillow-tiles) yet;"
                            + " it takes "
                            + Resize.Filter.BILINEAR.method
                            + " and "
                            + Resize.Filter.BICUBIC.method);
        }
    }

    private void readFiles(Fields manifest) {
        Fields roles = manifest.object("roles");
        for (String role : ROLES) {
            List<Fields> records = roles.has(role) ? roles.objects(role) : Collections.<Fields>emptyList();
            if (records.isEmpty()) {
                throw new InputException(where() + ": roles: no file for " + role);
            }
            List<String> paths = new ArrayList<String>();
            for (Fields fields : records) {
                FileRecord record = add(fields);
                paths.add(record.path);
                decoderBytes += role.equals("decoder") ? record.bytes : 0;
            }
            rolePaths.put(role, paths);
        }
        roles.only(ROLES);
        for (Fields fields : manifest.objects("files")) {
            add(fields);
        }
    }

    /** A path may serve several roles, but it is one file; on a phone's storage also if it is spelled in capitals. */
    private FileRecord add(Fields fields) {
        FileRecord record = new FileRecord(fields, where());
        String lower = record.path.toLowerCase(Locale.ROOT);
        for (FileRecord other : new FileRecord[] {files.get(record.path), byLowerCase.get(lower)}) {
            if (other != null && !other.equalTo(record)) {
                throw new InputException(where() + ": " + record.path + " is listed as two different files; refused");
            }
        }
        if (files.size() >= MOST_FILES) {
            throw new InputException(where() + ": more than " + MOST_FILES + " files; refused");
        }
        files.put(record.path, record);
        byLowerCase.put(lower, record);
        return record;
    }

    private String where() {
        return new File(folder, MANIFEST).toString();
    }

    /** Whether a bundle, and so its folder, may be called so: nothing that a shell reads otherwise. */
    public static boolean isName(String name) {
        return Fields.isPlainName(name);
    }

    /** Reads and checks a bundle, every hash included. Throws InputException naming the file that is wrong. */
    public static Bundle open(File folder) {
        return open(folder, Stop.NEVER);
    }

    /** As above; {@code stop} may end it while it reads. */
    public static Bundle open(File folder, Stop stop) {
        Bundle bundle = read(folder);
        bundle.verify(stop);
        return bundle;
    }

    /** Reads manifest.json without touching the other files. Throws InputException. */
    public static Bundle read(File folder) {
        File manifest = new File(folder, MANIFEST);
        if (!manifest.isFile()) {
            throw new InputException(
                    folder + (folder.isDirectory() ? ": no manifest.json in it; is it a bundle?" : ": no such folder"));
        }
        Fields fields = Fields.of(Files.readJson(manifest, MAX_MANIFEST_BYTES), manifest.toString());
        Object version = fields.get("schema_version");
        if (!Long.valueOf(SCHEMA_VERSION).equals(version)) {
            throw new InputException(
                    manifest + ": schema version " + version + "; this app reads version " + SCHEMA_VERSION);
        }
        return new Bundle(folder, fields);
    }

    /** Checks that every file is the one that the manifest describes. Throws InputException. */
    public void verify() {
        verify(Stop.NEVER);
    }

    private void verify(Stop stop) {
        for (FileRecord record : files.values()) {
            record.verify(folder, stop);
        }
        if (target.equals("onnx")) {
            OnnxFiles.check(this);
        }
    }

    /** The main file of a role. */
    public File roleFile(String role) {
        return new File(folder, rolePaths.get(role).get(0));
    }

    /** Paths of a role's files, the main one first. */
    List<String> rolePaths(String role) {
        return rolePaths.get(role);
    }

    /** Paths of all files, manifest.json first, relative to the folder. */
    public List<String> paths() {
        List<String> paths = new ArrayList<String>();
        paths.add(MANIFEST);
        paths.addAll(files.keySet());
        return paths;
    }

    /** All files but the manifest. */
    Collection<FileRecord> records() {
        return files.values();
    }

    /** Size of all files, without the manifest. */
    public long bytes() {
        long sum = 0;
        for (FileRecord record : files.values()) {
            sum += record.bytes;
        }
        return sum;
    }

    /** Size of the decoder's files. */
    public long decoderBytes() {
        return decoderBytes;
    }
}
