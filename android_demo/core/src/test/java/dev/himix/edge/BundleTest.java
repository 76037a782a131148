package dev.himix.edge;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.RandomAccessFile;
import java.nio.charset.StandardCharsets;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** A bad bundle is refused before ONNX Runtime sees it, in one line that names the file. */
public class BundleTest {
    @Rule public final TemporaryFolder temporary = new TemporaryFolder();
    private File folder;

    @Before
    public void copyTheBundle() throws Exception {
        folder = temporary.newFolder("bundle");
        for (String path : Bundle.read(Fixtures.BUNDLE).paths()) {
            File to = new File(folder, path);
            to.getParentFile().mkdirs();
            Files.write(to, Files.read(new File(Fixtures.BUNDLE, path), 1 << 26));
        }
    }

    @Test
    public void theUnchangedCopyOpens() {
        Fixtures.loadRuntime();
        Session session = Session.open(folder, 1);
        assertTrue(SelfTest.run(session, Fixtures.photo(new File(folder, session.bundle.selfTest.image))).passed);
        session.close();
    }

    @Test
    public void oneFlippedBitInAnyFile() throws Exception {
        for (String path : Bundle.read(folder).paths()) {
            if (path.equals(Bundle.MANIFEST)) {
                continue;
            }
            flip(path);
            refused(new File(folder, path) + ": content does not match its SHA-256 in the manifest");
            flip(path);
        }
        Bundle.open(folder);
    }

    private void flip(String path) throws Exception {
        try (RandomAccessFile file = new RandomAccessFile(new File(folder, path), "rw")) {
            long middle = file.length() / 2;
            file.seek(middle);
            int value = file.read();
            file.seek(middle);
            file.write(value ^ 1);
        }
    }

    @Test
    public void truncatedFile() throws Exception {
        try (RandomAccessFile file = new RandomAccessFile(new File(folder, "decoder.onnx"), "rw")) {
            file.setLength(file.length() - 1);
        }
        refused(new File(folder, "decoder.onnx") + ": ", " bytes, the manifest says ");
    }

    @Test
    public void missingFile() {
        assertTrue(new File(folder, "tokenizer.json").delete());
        refused(new File(folder, "tokenizer.json") + ": missing");
    }

    @Test
    public void pathsThatLeaveTheFolder() throws Exception {
        for (String path : new String[] {"../decoder.onnx", "/etc/passwd", "a/../../b", "c:\\\\x", "..", ""}) {
            copyManifestWith("\"path\": \"decoder.onnx\"", "\"path\": \"" + path + "\"");
            refused(manifest() + ": path \"", "leaves the bundle; refused");
        }
    }

    @Test
    public void linkThatLeavesTheFolder() throws Exception {
        File decoder = new File(folder, "decoder.onnx");
        File outside = new File(temporary.getRoot(), "outside.onnx");
        assertTrue(decoder.renameTo(outside));
        java.nio.file.Files.createSymbolicLink(decoder.toPath(), outside.toPath());
        refused(decoder + ": a link that leaves the bundle; refused");
    }

    @Test
    public void unknownSchemaVersion() throws Exception {
        copyManifestWith("\"schema_version\": 1", "\"schema_version\": 2");
        refused(manifest() + ": schema version 2; this app reads version 1");
    }

    @Test
    public void anotherTarget() throws Exception {
        copyManifestWith("\"target\": \"onnx\"", "\"target\": \"coreml\"");
        refused(folder + ": a bundle for coreml; this app runs the target onnx");
    }

    @Test
    public void damagedManifests() throws Exception {
        String good = text();
        String[][] changes = {
            {good.substring(0, good.length() / 2), "not valid JSON (it ends too early"},
            {"", "not valid JSON"},
            {"[]", "expected a JSON object"},
            {good.replace("\"context_capacity\": 512", "\"context_capacity\": -1"), "context_capacity has to be"},
            {good.replace("\"context_capacity\": 512", "\"context_capacity\": \"many\""), "context_capacity has to be"},
            {good.replace("\"image_kv_id\"", "\"image_kv\""), "image_kv_id is missing"},
            {good.replace("pillow-bilinear-squash", "nearest"), "method nearest is not supported"},
            {good.replaceFirst("\"decoder\": \\[", "\"other\": ["), "roles: no file for decoder"},
        };
        for (String[] change : changes) {
            Files.write(manifest(), change[0].getBytes(StandardCharsets.UTF_8));
            refused(manifest().toString(), change[1]);
        }
        try (RandomAccessFile file = new RandomAccessFile(manifest(), "rw")) {
            file.setLength(5 << 20);
        }
        refused(manifest() + ": larger than 4 MiB; refused");
    }

    @Test
    public void nestedBeyondReasonIsRefused() {
        assertThrows(InputException.class, () -> Json.parse("[".repeat(100_000)));
    }

    @Test
    public void noBundleAtAll() {
        InputException error = assertThrows(InputException.class, () -> Bundle.open(temporary.getRoot()));
        assertTrue(error.getMessage(), error.getMessage().endsWith("no manifest.json in it; is it a bundle?"));
        error = assertThrows(InputException.class, () -> Bundle.open(new File("/no/such")));
        assertEquals("/no/such: no such folder", error.getMessage());
    }

    @Test
    public void graphThatContradictsTheManifest() throws Exception {
        Fixtures.loadRuntime();
        copyManifestWith("\"context_capacity\": 512", "\"context_capacity\": 4096");
        InputException error = assertThrows(InputException.class, () -> Session.open(folder, 1));
        assertEquals(
                new File(folder, "decoder.onnx")
                        + ": past_key_values.0.key is [1, 2, 512, 64], the manifest says [1, 2, 4096, 64]",
                error.getMessage());
    }

    @Test
    public void graphThatOnnxRuntimeCannotRead() throws Exception {
        Fixtures.loadRuntime();
        File encoder = new File(folder, "vision_encoder.onnx");
        String before = Files.sha256(encoder);
        byte[] noise = Files.read(encoder, 1 << 26);
        java.util.Arrays.fill(noise, 0, 1000, (byte) 0xFF);
        Files.write(encoder, noise);
        copyManifestWith(before, Files.sha256(encoder));
        InputException error = assertThrows(InputException.class, () -> Session.open(folder, 1));
        assertTrue(error.getMessage(), error.getMessage().startsWith(encoder + ": ONNX Runtime cannot load it: "));
        assertTrue(error.getMessage(), !error.getMessage().contains("\n"));
    }

    @Test
    public void weightsInAFileThatIsNotListed() throws Exception {
        File injector = new File(folder, "vision_injector.onnx");
        String before = Files.sha256(injector);
        long size = injector.length();
        for (String place : new String[] {"w.bin", "../w.bin", "/etc/passwd", "tokenizer.json"}) {
            byte[] entry = joined(field(1, "location".getBytes("UTF-8")), field(2, place.getBytes("UTF-8")));
            byte[] tensor = field(5, field(13, entry));
            byte[] node = field(1, field(5, field(6, tensor))); // in the branch of an If
            for (byte[] graph : new byte[][] {tensor, node}) {
                Files.write(injector, field(7, graph));
                String changed = text().replace(before, Files.sha256(injector)).replace("" + size, "" + injector.length());
                Files.write(manifest(), changed.getBytes(StandardCharsets.UTF_8));
                refused(injector + ": its weights are in \"" + place + "\", which the manifest does not list");
            }
        }
        byte[] weights = Files.read(new File(Fixtures.BUNDLE, "decoder.onnx"), 1 << 26);
        Files.write(injector, field(7, field(5, field(9, weights))));
        assertTrue(OnnxFiles.locations(injector).isEmpty());
    }

    /** A field of a protobuf message. */
    private static byte[] field(int number, byte[] content) {
        java.io.ByteArrayOutputStream out = new java.io.ByteArrayOutputStream();
        for (long left : new long[] {number << 3 | 2, content.length}) {
            for (; left > 127; left >>>= 7) {
                out.write((int) left & 127 | 128);
            }
            out.write((int) left);
        }
        return joined(out.toByteArray(), content);
    }

    private static byte[] joined(byte[] first, byte[] second) {
        byte[] all = java.util.Arrays.copyOf(first, first.length + second.length);
        System.arraycopy(second, 0, all, first.length, second.length);
        return all;
    }

    private File manifest() {
        return new File(folder, Bundle.MANIFEST);
    }

    private String text() {
        return new String(Files.read(new File(Fixtures.BUNDLE, Bundle.MANIFEST), 1 << 22), StandardCharsets.UTF_8);
    }

    private void copyManifestWith(String from, String to) {
        String changed = text().replace(from, to);
        assertTrue(from, !changed.equals(text()));
        Files.write(manifest(), changed.getBytes(StandardCharsets.UTF_8));
    }

    private void refused(String start, String... parts) {
        InputException error = assertThrows(InputException.class, () -> Bundle.open(folder));
        assertTrue(error.getMessage(), error.getMessage().startsWith(start));
        for (String part : parts) {
            assertTrue(error.getMessage(), error.getMessage().contains(part));
        }
        assertTrue(error.getMessage(), !error.getMessage().contains("\n"));
    }
}
