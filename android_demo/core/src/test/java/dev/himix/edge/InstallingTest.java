package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.junit.After;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Bundles from a web server of this machine and from zip files: whole and right, or one clear line and nothing. */
public class InstallingTest {
    private static final long ENOUGH = 1L << 30;
    private static final String DECODER = "decoder.onnx";

    @Rule public final TemporaryFolder temporary = new TemporaryFolder();
    private final Map<String, byte[]> files = new HashMap<>(); // of the server, by path
    private final List<String> asked = new ArrayList<>(); // path and range
    private HttpServer server;
    private String address;
    private boolean ranges = true;
    private int breakAfter = Integer.MAX_VALUE; // bytes of DECODER
    private File folder;
    private Bundle bundle;

    @Before
    public void serve() throws Exception {
        folder = temporary.newFolder("bundles");
        bundle = Bundle.read(Fixtures.BUNDLE);
        for (String path : bundle.paths()) {
            files.put("/b/" + path, Files.read(new File(Fixtures.BUNDLE, path), 1 << 26));
        }
        server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/", this::answer);
        server.start();
        address = "http://127.0.0.1:" + server.getAddress().getPort() + "/";
    }

    @After
    public void stop() {
        server.stop(0);
    }

    private void answer(HttpExchange exchange) throws IOException {
        String path = exchange.getRequestURI().getPath();
        String range = exchange.getRequestHeaders().getFirst("Range");
        asked.add(path.replaceFirst("/b/", "") + (range == null ? "" : " " + range));
        byte[] all = files.get(path);
        if (all == null) {
            exchange.sendResponseHeaders(404, -1);
            exchange.close();
            return;
        }
        int from = range == null || !ranges ? 0 : Integer.parseInt(range.replaceAll("\\D", ""));
        if (from > 0) {
            exchange.getResponseHeaders().add("Content-Range", "bytes " + from + "-" + (all.length - 1) + "/" + all.length);
        }
        exchange.sendResponseHeaders(from > 0 ? 206 : 200, all.length - from);
        int end = path.endsWith(DECODER) && breakAfter < all.length ? Math.max(breakAfter, from) : all.length;
        exchange.getResponseBody().write(all, from, end - from);
        exchange.close();
    }

    private String install(String sha256) {
        return install(sha256, ENOUGH, Stop.NEVER);
    }

    private String install(String sha256, long limit, Stop stop) {
        return new Installing(new WebSource(address + "b"), folder, limit, stop, (bytes, of) -> {}).run(sha256);
    }

    private String refused(String sha256) {
        InputException error = assertThrows(InputException.class, () -> install(sha256));
        assertFalse("nothing is published", new File(folder, bundle.name).exists());
        return error.getMessage();
    }

    @Test
    public void aBundleIsFetchedAndOpens() {
        List<Long> told = new ArrayList<>();
        String digest = Files.sha256(files.get("/b/manifest.json"));
        Installing.Progress progress = (bytes, of) -> {
            assertEquals(bundle.bytes(), of);
            told.add(bytes);
        };
        String name = new Installing(new WebSource(address + "b/"), folder, ENOUGH, Stop.NEVER, progress).run(digest);
        assertEquals(bundle.name, name);
        Bundle.open(new File(folder, name));
        assertEquals(bundle.bytes(), (long) told.get(told.size() - 1));
        for (int i = 1; i < told.size(); i++) {
            assertTrue(told.get(i) >= told.get(i - 1));
        }
        assertArrayEquals(new String[] {name}, folder.list());
        assertEquals(name, install("")); // once more, over the first
        assertArrayEquals(new String[] {name}, folder.list());
    }

    @Test
    public void aBrokenConnectionGoesOnWhereItEnded() {
        breakAfter = 300_000;
        String said = refused("");
        assertTrue(said, said.startsWith(DECODER) && said.endsWith("what has come is kept, ask for it again"));
        breakAfter = Integer.MAX_VALUE;
        asked.clear();
        install("");
        String again = asked.stream().filter(path -> path.startsWith(DECODER)).findFirst().get();
        assertTrue(asked.toString(), again.matches(DECODER + " bytes=[0-9]+-") && !again.contains("bytes=0-"));
        assertTrue("what was whole is not fetched again", asked.size() < files.size());
        Bundle.open(new File(folder, bundle.name));
    }

    @Test
    public void aServerWithoutRangesBeginsAnew() {
        breakAfter = 300_000;
        refused("");
        breakAfter = Integer.MAX_VALUE;
        ranges = false;
        Bundle.open(new File(folder, install("")));
    }

    @Test
    public void whatIsNotAsPromisedIsRefused() {
        byte[] good = files.get("/b/" + DECODER);
        byte[] bad = good.clone();
        bad[1000] ^= 1;
        files.put("/b/" + DECODER, bad);
        assertTrue(refused("").contains("content does not match its SHA-256 in the manifest"));
        files.put("/b/" + DECODER, Arrays.copyOf(good, good.length + 1));
        assertTrue(refused("").contains("longer than the " + good.length + " bytes of the manifest"));
        files.put("/b/" + DECODER, Arrays.copyOf(good, good.length - 1));
        assertTrue(refused("").contains("ended after " + (good.length - 1) + " of "));
        files.remove("/b/" + DECODER);
        assertTrue(refused("").contains("the server answers 404"));
        files.put("/b/" + DECODER, good);
        String other = Files.sha256(new byte[1]);
        assertTrue(refused(other).contains("not the one that was promised"));
        InputException error = assertThrows(InputException.class, () -> install("", 1 << 20, Stop.NEVER));
        assertTrue(error.getMessage(), error.getMessage().contains("more than 1 MiB are not taken"));
        install("");
    }

    @Test
    public void noPathLeavesTheFolder() {
        String manifest = new String(files.get("/b/manifest.json"), StandardCharsets.UTF_8);
        files.put("/b/manifest.json", manifest.replace("\"" + DECODER + "\"", "\"../" + DECODER + "\"").getBytes(StandardCharsets.UTF_8));
        assertTrue(refused("").contains("leaves the bundle; refused"));
        assertEquals(1, temporary.getRoot().list().length);
        files.put("/b/manifest.json", manifest.replace("\"onnx\"", "\"coreml\"").getBytes(StandardCharsets.UTF_8));
        assertTrue(refused("").contains("a bundle for coreml"));
        files.put("/b/manifest.json", new byte[5 << 20]);
        assertTrue(refused("").contains("larger than 4 MiB"));
    }

    @Test
    public void stoppingKeepsWhatHasCome() {
        int[] left = {20};
        Stop stop = () -> {
            if (--left[0] == 0) {
                throw new Stop.Stopped();
            }
        };
        assertThrows(Stop.Stopped.class, () -> install("", ENOUGH, stop));
        assertFalse(new File(folder, bundle.name).exists());
        asked.clear();
        install("");
        boolean kept = asked.size() < files.size() || asked.stream().anyMatch(path -> path.contains(" bytes="));
        assertTrue("what has come is not fetched again: " + asked, kept);
    }

    @Test
    public void zipFilesAtTheTopOrInAFolder() throws Exception {
        for (String top : new String[] {"", "mine/"}) {
            File zip = zip(top, new ArrayList<>(files.keySet()));
            try (ArchiveSource source = new ArchiveSource(zip)) {
                String name = new Installing(source, folder, ENOUGH, Stop.NEVER, (bytes, of) -> {}).run("");
                Bundle.open(new File(folder, name));
                assertFalse("only what the manifest names", new File(folder, name + "/extra.txt").exists());
                assertEquals(2, temporary.getRoot().list().length);
            }
            assertTrue(zip.delete());
        }
        List<String> some = new ArrayList<>(files.keySet());
        some.remove("/b/" + DECODER);
        Files.deleteTree(new File(folder, bundle.name));
        try (ArchiveSource source = new ArchiveSource(zip("", some))) {
            Installing installing = new Installing(source, folder, ENOUGH, Stop.NEVER, (bytes, of) -> {});
            String said = assertThrows(InputException.class, () -> installing.run("")).getMessage();
            assertTrue(said, said.contains("it is not in the zip file"));
        }
        File none = temporary.newFile("none.zip");
        Files.write(none, "GIF89a".getBytes(StandardCharsets.US_ASCII));
        assertThrows(InputException.class, () -> new ArchiveSource(none));
        assertThrows(InputException.class, () -> new ArchiveSource(zip("a/b/", some)));
    }

    private File zip(String top, List<String> paths) throws IOException {
        File zip = new File(temporary.getRoot(), "bundle.zip");
        try (ZipOutputStream out = new ZipOutputStream(new FileOutputStream(zip))) {
            out.setLevel(1);
            for (String path : paths) {
                out.putNextEntry(new ZipEntry(top + path.replaceFirst("/b/", "")));
                out.write(files.get(path));
            }
            out.putNextEntry(new ZipEntry("../../outside.txt"));
            out.write(1);
            out.putNextEntry(new ZipEntry(top + "extra.txt"));
            out.write(1);
        }
        return zip;
    }

    @Test
    public void aListTellsWhatThereIs() {
        String digest = Files.sha256(files.get("/b/manifest.json"));
        String entry = "{\"name\": \"nano\", \"address\": \"b/\", \"bytes\": 4400000, \"manifest_sha256\": \"" + digest + "\"}";
        files.put("/list.json", ("{\"bundles\": [" + entry + "]}").getBytes(StandardCharsets.UTF_8));
        List<Catalogue.Entry> all = Catalogue.read(address + "list.json", Stop.NEVER);
        assertEquals(1, all.size());
        assertEquals(address + "b/", all.get(0).address);
        Installing.Progress none = (bytes, of) -> {};
        assertEquals(
                bundle.name,
                new Installing(new WebSource(all.get(0).address), folder, ENOUGH, Stop.NEVER, none).run(all.get(0).manifestSha256));
        for (String[] change : new String[][] {
            {"\"b/\"", "\"file:///etc/\""}, {"\"b/\"", "\"http://example.com/b/\""}, {"\"nano\"", "\"../nano\""},
            {digest, "abc"}, {"4400000", "-1"}, {"\"bytes\"", "\"size\""}, {"]}", ""},
        }) {
            String changed = ("{\"bundles\": [" + entry + "]}").replace(change[0], change[1]);
            files.put("/list.json", changed.getBytes(StandardCharsets.UTF_8));
            InputException error = assertThrows(InputException.class, () -> Catalogue.read(address + "list.json", Stop.NEVER));
            assertTrue(error.getMessage(), error.getMessage().startsWith(address + "list.json: "));
        }
        files.put("/list.json", new byte[2 << 20]);
        assertThrows(InputException.class, () -> Catalogue.read(address + "list.json", Stop.NEVER));
    }

    @Test
    public void onlyHttpsAndThisDevice() {
        for (String bad : new String[] {
            "", "nano", "http://example.com/b", "ftp://example.com/b", "file:///sdcard/b", "https:///b",
            "https://user@example.com/b", "https://example.com/b?x=1", "https://example.com/b#x",
        }) {
            InputException error = assertThrows(bad, InputException.class, () -> new WebSource(bad));
            assertTrue(error.getMessage(), error.getMessage().contains("https://"));
        }
        new WebSource("https://example.com/b");
    }
}
