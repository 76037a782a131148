package dev.himix.edge;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
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
    private static final String[] ROLES = {"vision_encoder", "vision_injector", "decoder"};

    /** A file of the bundle, its path relative to the folder. */
    private static final class FileRecord {
        final String path;
        final long bytes;
        final String sha256;

        FileRecord(Fields record) {
            path = record.string("path");
            bytes = record.integer("bytes", 0, Long.MAX_VALUE);
            sha256 = record.string("sha256");
        }
    }

    /** One question about one image whose exact answer is known. */
    public static final class SelfTestCase {
        public final String image;
        public final String prompt;
        public final String pixelsSha256;
        public final int[] tokenIds;
        public final String text;
        public final boolean ends; // whether the answer stops there; else it goes on
        public final boolean decisive; // whether the model is surer of it than devices round differently

        SelfTestCase(Fields test) {
            image = test.string("image");
            prompt = test.string("prompt");
            pixelsSha256 = test.string("pixels_sha256");
            tokenIds = test.integers("token_ids", 0, Integer.MAX_VALUE);
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
    private final Map<String, FileRecord> roleFiles = new LinkedHashMap<String, FileRecord>();
    private final Map<String, FileRecord> files = new LinkedHashMap<String, FileRecord>();
    private long decoderBytes;

    private Bundle(File folder, Fields manifest) {
        this.folder = folder;
        name = manifest.string("name");
        target = manifest.string("target");
        if (!target.equals("onnx")) {
            throw new InputException(
                    folder + ": a bundle for " + target + "; this app runs the target onnx (himix export --target onnx)");
        }
        Fields roles = manifest.object("roles");
        for (String role : roles.names()) {
            for (Fields fields : roles.objects(role)) {
                FileRecord record = new FileRecord(fields);
                files.put(record.path, record);
                if (!roleFiles.containsKey(role)) {
                    roleFiles.put(role, record);
                }
                if (role.equals("decoder")) {
                    decoderBytes += record.bytes;
                }
            }
        }
        for (String role : ROLES) {
            if (!roleFiles.containsKey(role)) {
                throw new InputException(new File(folder, MANIFEST) + ": roles: no file for " + role);
            }
        }
        for (Fields fields : manifest.objects("files")) {
            FileRecord record = new FileRecord(fields);
            files.put(record.path, record);
        }
        model = new ModelConfig(manifest.object("model"));
        template = new ChatTemplate(manifest.object("chat_template"));
        Fields preprocessing = manifest.object("preprocessing");
        if (preprocessing.integer("image_size", 1, 1 << 14) != model.imageSize) {
            throw preprocessing.wrong("image_size", "the model's, " + model.imageSize);
        }
        filter = Resize.Filter.of(preprocessing.string("method"), new File(folder, MANIFEST).toString());
        Fields quantisation = manifest.object("quantisation");
        precision = quantisation.string("precision");
        activations = quantisation.string("activations");
        capacity = (int) manifest.integer("context_capacity", 1, 1 << 24);
        visionTokens = (int) manifest.integer("vision_tokens", 1, 1 << 24);
        imageKvId = manifest.string("image_kv_id");
        Fields generation = manifest.object("generation");
        maxNewTokens = (int) generation.integer("max_new_tokens", 1, Integer.MAX_VALUE);
        temperature = generation.number("temperature");
        topP = generation.number("top_p");
        selfTest = new SelfTestCase(manifest.object("selftest"));
        checkPath(selfTest.image);
        for (String path : files.keySet()) {
            checkPath(path);
        }
        for (String needed : new String[] {TOKENIZER, selfTest.image}) {
            if (!files.containsKey(needed)) {
                throw new InputException(new File(folder, MANIFEST) + ": files: no record of " + needed);
            }
        }
    }

    /** Reads and checks a bundle, every hash included. Throws InputException naming the file that is wrong. */
    public static Bundle open(File folder) {
        Bundle bundle = read(folder);
        bundle.verify();
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
        for (FileRecord record : files.values()) {
            File file = new File(folder, record.path);
            if (!staysInside(file)) {
                throw new InputException(file + ": a link that leaves the bundle; refused");
            }
            if (!file.isFile()) {
                throw new InputException(file + ": missing; the bundle is incomplete, copy it again");
            }
            if (file.length() != record.bytes) {
                throw new InputException(
                        file + ": " + file.length() + " bytes, the manifest says " + record.bytes
                                + "; copy the bundle again");
            }
            if (!Files.sha256(file).equals(record.sha256)) {
                throw new InputException(
                        file + ": content does not match its SHA-256 in the manifest; copy the bundle again");
            }
        }
    }

    /** The main file of a role. */
    public File roleFile(String role) {
        return new File(folder, roleFiles.get(role).path);
    }

    /** Paths of all files, manifest.json first, relative to the folder. */
    public List<String> paths() {
        List<String> paths = new ArrayList<String>();
        paths.add(MANIFEST);
        paths.addAll(files.keySet());
        return paths;
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

    private boolean staysInside(File file) {
        try {
            return file.getCanonicalPath().startsWith(folder.getCanonicalPath() + File.separator);
        } catch (IOException error) {
            return false;
        }
    }

    private void checkPath(String path) {
        boolean odd = path.isEmpty() || path.startsWith("/");
        for (char c : new char[] {'\\', ':', '\0'}) {
            odd |= path.indexOf(c) >= 0;
        }
        for (String part : path.split("/", -1)) {
            odd |= part.equals("..");
        }
        if (odd) {
            throw new InputException(new File(folder, MANIFEST) + ": path \"" + path + "\" leaves the bundle; refused");
        }
    }
}
