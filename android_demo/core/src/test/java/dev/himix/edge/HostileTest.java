package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The hostile inputs that every client is tried with (conformance/README.md): one clear line, or the right answer. */
public class HostileTest {
    private static final int SECONDS = 60; // far beyond what any case takes

    @Rule public final TemporaryFolder temporary = new TemporaryFolder();
    private Map<String, Object> all;

    @Before
    public void read() {
        Fixtures.loadRuntime();
        all = Fixtures.json("hostile.json");
    }

    /** What a case gives; throws InputException. */
    private interface Trial {
        Object run(File file, Map<String, Object> facts) throws Exception;
    }

    @Test
    public void manifests() throws Exception {
        File folder = copyOfTheBundle();
        tryAll("manifests", (file, facts) -> {
            Files.write(new File(folder, Bundle.MANIFEST), Files.read(file, 16 << 20));
            Session.open(folder, 1).close();
            return null;
        });
    }

    /** This app takes no model whose pictures are tiles, so it refuses the good one as well, and says of all why. */
    @Test
    @SuppressWarnings("unchecked")
    public void modelsWhosePicturesAreTiles() throws Exception {
        File folder = copyOfTheBundle();
        List<Map<String, Object>> cases = (List<Map<String, Object>>) all.get("tile_manifests");
        assertTrue(cases.size() > 10);
        for (Map<String, Object> facts : cases) {
            byte[] manifest = Files.read(Fixtures.file((String) facts.get("file")), 16 << 20);
            Files.write(new File(folder, Bundle.MANIFEST), manifest);
            InputException refused = assertThrows(InputException.class, () -> Bundle.open(folder));
            String said = refused.getMessage();
            assertTrue(facts.get("name") + ": " + said, said.contains("pictures are tiles in the text (pillow-tiles)"));
        }
    }

    @Test
    public void bundlesAndFolders() throws Exception {
        for (String kind : new String[] {"bundles", "folders"}) {
            tryAll(kind, (folder, facts) -> {
                Session.open(folder, 1).close();
                return null;
            });
        }
    }

    @Test
    public void tokenizers() throws Exception {
        File named = new File(temporary.getRoot(), Bundle.TOKENIZER);
        tryAll("tokenizers", (file, facts) -> {
            Files.write(named, Files.read(file, 64 << 20));
            Tokenizer tokenizer = Tokenizer.load(named, Fixtures.rows());
            ChatTemplate template = Bundle.read(Fixtures.BUNDLE).template;
            new TextProcessor(tokenizer, template).encodeQuestion((String) all.get("text"));
            List<Integer> ids = tokenizer.encode((String) all.get("text"));
            if (facts.get("expect").equals("same")) {
                assertArrayEquals(Fixtures.ints(all.get("ids")), ids.stream().mapToInt(i -> i).toArray());
            }
            return ids;
        });
    }

    @Test
    public void imageKVs() throws Exception {
        Session session = Fixtures.session();
        tryAll("image_kvs", (file, facts) -> {
            ImageKV image = ImageKV.load(file);
            session.checkFits(image);
            return image;
        });
    }

    @Test
    public void images() throws Exception {
        tryAll("images", (file, facts) -> {
            PictureFile.check(file);
            byte[] pixels = Resize.toSquare(Fixtures.photo(file).decode(), 64, Resize.Filter.BILINEAR);
            if (facts.containsKey("sha256")) {
                assertEquals(facts.get("sha256"), Files.sha256(pixels));
            }
            assertTrue("this app refuses it", !facts.get("expect").equals("either"));
            return pixels;
        });
    }

    /** Every case of a kind; those that end otherwise than they should are named together. */
    @SuppressWarnings("unchecked")
    private void tryAll(String kind, Trial trial) throws Exception {
        List<Map<String, Object>> cases = (List<Map<String, Object>>) all.get(kind);
        List<String> wrong = new ArrayList<>();
        ExecutorService worker = Executors.newSingleThreadExecutor();
        for (Map<String, Object> facts : cases) {
            Object path = facts.containsKey("file") ? facts.get("file") : facts.get("folder");
            String problem = ended(worker, () -> trial.run(Fixtures.file((String) path), facts), facts);
            if (!problem.isEmpty()) {
                wrong.add(facts.get("name") + ": " + problem);
            }
        }
        worker.shutdownNow();
        assertTrue(kind, cases.size() > 10);
        assertEquals(kind, "", String.join("\n", wrong));
    }

    private static String ended(ExecutorService worker, Callable<Object> trial, Map<String, Object> facts) {
        final String message;
        try {
            worker.submit(trial).get(SECONDS, TimeUnit.SECONDS);
            return facts.get("expect").equals("refused") ? "was not refused" : "";
        } catch (TimeoutException | InterruptedException error) {
            return "no end";
        } catch (ExecutionException error) {
            if (!(error.getCause() instanceof InputException)) {
                return error.getCause().toString();
            }
            message = error.getCause().getMessage();
        }
        boolean plain = message.length() < 1000 && InputException.oneLine(message).equals(message);
        boolean says = ((List<?>) facts.get("words")).stream().allMatch(word -> message.contains((String) word));
        return facts.get("expect").equals("same") || !plain || !says ? message : "";
    }

    private File copyOfTheBundle() throws Exception {
        File folder = temporary.newFolder("bundle");
        for (String path : Bundle.read(Fixtures.BUNDLE).paths()) {
            File to = new File(folder, path);
            to.getParentFile().mkdirs();
            Files.write(to, Files.read(new File(Fixtures.BUNDLE, path), 1 << 26));
        }
        return folder;
    }
}
