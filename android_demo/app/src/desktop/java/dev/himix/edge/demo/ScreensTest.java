package dev.himix.edge.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNotSame;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;

import android.app.Activity;
import android.app.AlertDialog;
import android.content.ContentResolver;
import android.content.Intent;
import android.net.Uri;
import android.os.Standin;
import android.view.MenuItem;
import android.view.View;
import android.view.WindowInsets;
import android.widget.ImageView;
import android.widget.TextView;
import dev.himix.edge.Files;
import dev.himix.edge.Json;
import java.io.File;
import java.io.FileOutputStream;
import java.io.RandomAccessFile;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.junit.Before;
import org.junit.FixMethodOrder;
import org.junit.Test;
import org.junit.runners.MethodSorters;

/**
 * The screens' logic on stand-ins for Android's classes: what happens from a tap to the text on the screen, with the
 * real bundle and ONNX Runtime. It says nothing about how the screens look or how Android itself behaves.
 */
@FixMethodOrder(MethodSorters.NAME_ASCENDING)
public class ScreensTest {
    private static MainActivity main;
    private static Demo demo;

    @Before
    public void start() throws Exception {
        if (main == null) {
            Standin.root = java.nio.file.Files.createTempDirectory("himix-screens").toFile();
            main = new MainActivity();
            main.onCreate(null);
            main.onStart();
            demo = Demo.of(main);
            settle();
        }
    }

    private static void settle() throws Exception {
        Standin.runUntil(() -> !demo.busy && Standin.MAIN.isEmpty());
    }

    private static TextView text(Activity activity, String id) {
        return (TextView) activity.findViewById(Standin.id(id));
    }

    private static String shown(String id) {
        return text(main, id).getText().toString();
    }

    private static void tap(String id) throws Exception {
        main.findViewById(Standin.id(id)).performClick();
        settle();
    }

    private static void ask(String question) throws Exception {
        text(main, "question").setText(question);
        tap("ask");
    }

    @Test
    public void a_startsWithTheAppsOwnBundle() {
        assertTrue(shown("status"), shown("status").startsWith("nano-onnx-int8, ONNX Runtime 1."));
        assertEquals("No picture yet. Choose one, take one, or try a sample.", shown("answer"));
        assertTrue(new File(Standin.folder("files"), "bundles/nano-onnx-int8/decoder.onnx").isFile());
        assertFalse(new File(Standin.folder("files"), "bundles/nano-onnx-int8.staging").exists());
    }

    @Test
    public void a_theLibrariesAreTheApksOwn() throws Exception {
        String mapped = new String(Files.read(new File("/proc/self/maps"), 1 << 24), StandardCharsets.UTF_8);
        for (String library : new String[] {"libonnxruntime.so", "libhimix_onnx.so"}) {
            assertTrue(mapped.contains("/lib/x86_64/" + library));
            assertEquals(1, mapped.lines().filter(line -> line.endsWith(library)).map(line -> line.replaceAll(".* ", "")).distinct().count());
        }
    }

    @Test
    public void b_answersAndKeepsThePicture() throws Exception {
        tap("sample");
        assertNotNull(((ImageView) main.findViewById(Standin.id("picture"))).bitmap);
        assertEquals("", shown("answer"));
        ask("Describe the image.");
        assertEquals("a red triangle", shown("answer"));
        assertEquals("a red triangle", text(main, "answer").announced.toString());
        assertTrue(shown("timings"), shown("timings").contains("vision encoder"));
        assertTrue(shown("timings"), shown("timings").contains("64 picture + "));
        ask("what is the red shape?");
        assertEquals("triangle", shown("answer"));
        assertTrue(shown("timings"), shown("timings").startsWith("picture: keys and values kept"));
        assertTrue(shown("timings"), shown("timings").contains("first token (warm)"));
        assertFalse(shown("timings"), shown("timings").contains("vision encoder"));
    }

    @Test
    public void c_anEmptyQuestionSaysWhatToDo() throws Exception {
        ask("  ");
        assertEquals("the prompt is empty; ask something about the image", shown("answer"));
        assertEquals(Standin.number("color", "failed"), text(main, "answer").color);
        ask("what is the red shape?");
        assertEquals("triangle", shown("answer"));
        assertEquals(0, text(main, "answer").color);
    }

    @Test
    public void d_turningTheDeviceLosesNothing() throws Exception {
        android.os.Bundle saved = new android.os.Bundle();
        text(main, "question").setText("Describe the image.");
        main.findViewById(Standin.id("ask")).performClick();
        main.onSaveInstanceState(saved);
        main.onStop();
        main = new MainActivity();
        main.onCreate(saved);
        main.onStart();
        settle();
        assertEquals("a red triangle", shown("answer"));
        assertNotNull(((ImageView) main.findViewById(Standin.id("picture"))).bitmap);
    }

    @Test
    public void d_anotherProcessShowsTheSamePictureAndQuestion() throws Exception {
        File picture = Standin.picked("content://other/kept.png");
        Files.write(picture, Files.read(new File(Standin.ASSETS, "samples/easy-vqa-0.png"), 1 << 20));
        main.onActivityResult(1, Activity.RESULT_OK, new Intent().setData(Uri.parse("content://other/kept.png")));
        settle();
        ask("Describe the image.");
        String answered = shown("answer");
        text(main, "question").setText("what is the red shape?");
        android.os.Bundle saved = new android.os.Bundle();
        main.onSaveInstanceState(saved);
        main.onStop();
        for (File cached : Standin.folder("cache").listFiles()) {
            cached.delete(); // as Android may
        }
        Field instance = Demo.class.getDeclaredField("instance");
        instance.setAccessible(true);
        instance.set(null, null);
        main = new MainActivity();
        main.onCreate(saved);
        main.onStart();
        assertNotSame(demo, Demo.of(main));
        demo = Demo.of(main);
        settle();
        assertNotNull(((ImageView) main.findViewById(Standin.id("picture"))).bitmap);
        assertEquals("what is the red shape?", shown("question"));
        assertEquals("Describe the image.\n" + answered + "\n\n", shown("said"));
        assertTrue(shown("status"), shown("status").startsWith("nano-onnx-int8, ONNX Runtime"));
        tap("ask");
        assertEquals("triangle", shown("answer"));
    }

    @Test
    public void e_questionsFollowEachOtherInAChat() throws Exception {
        tap("sample");
        MenuItem chat = () -> Standin.id("chat");
        main.onOptionsItemSelected(chat);
        settle();
        ask("Describe the image.");
        String first = shown("answer");
        assertEquals("", shown("said"));
        ask("what color is it?");
        assertEquals("Describe the image.\n" + first + "\n\n", shown("said"));
        assertTrue(shown("timings"), shown("timings").startsWith("picture: keys and values kept"));
        main.onOptionsItemSelected((MenuItem) () -> Standin.id("new_chat"));
        settle();
        assertEquals("", shown("said") + shown("answer"));
        ask("Describe the image.");
        assertEquals(first, shown("answer"));
        main.onOptionsItemSelected(chat);
        settle();
        ask("Describe the image.");
        assertEquals(first, shown("answer"));
        assertEquals("", shown("said"));
    }

    @Test
    public void e_stopWorksWhileAModelIsOpened() throws Exception {
        Files.write(Standin.picked("content://other/slow.png"), Files.read(new File(Standin.ASSETS, "samples/easy-vqa-0.png"), 1 << 20));
        ContentResolver.GATE.acquire();
        main.onActivityResult(1, Activity.RESULT_OK, new Intent().setData(Uri.parse("content://other/slow.png")));
        demo.open("nano-onnx-int8");
        Standin.runUntil(() -> ContentResolver.GATE.hasQueuedThreads());
        assertEquals("Stop", shown("ask"));
        main.findViewById(Standin.id("ask")).performClick();
        ContentResolver.GATE.release();
        settle();
        assertEquals("Ask", shown("ask"));
        assertEquals("", demo.error);
        assertTrue(shown("status"), shown("status").startsWith("nano-onnx-int8, ONNX Runtime"));
        ask("what is the red shape?");
        assertEquals("the open model was left as it is", "triangle", shown("answer"));
    }

    @Test
    public void e_screensKeepOffTheSystemsBars() {
        for (Activity screen : new Activity[] {new MainActivity(), new SelfTestActivity()}) {
            screen.setContentView(Standin.number("layout", screen instanceof MainActivity ? "main" : "report"));
            View root = screen.findViewById(Standin.id("root"));
            Edges.pad(root);
            for (int times = 0; times < 2; times++) {
                root.dispatchApplyWindowInsets(new WindowInsets());
                assertArrayEquals(new int[] {11, 22, 33, 44}, root.padding);
            }
        }
        View root = main.findViewById(Standin.id("root"));
        root.dispatchApplyWindowInsets(new WindowInsets());
        assertArrayEquals(new int[] {11, 22, 33, 44}, root.padding);
    }

    @Test
    public void e_takesAPickedPictureAndRefusesWhatIsNone() throws Exception {
        tap("choose");
        assertEquals("android.provider.action.PICK_IMAGES", main.started.action);
        File picture = Standin.picked("content://other/blue.png");
        Files.write(picture, Files.read(new File(Standin.ASSETS, "samples/easy-vqa-2.png"), 1 << 20));
        main.onActivityResult(1, Activity.RESULT_OK, new Intent().setData(Uri.parse("content://other/blue.png")));
        settle();
        assertTrue(picture.delete()); // the app has a copy of its own
        ask("what is the blue shape?");
        assertEquals("triangle", shown("answer"));
        assertTrue(shown("timings"), shown("timings").contains("vision encoder"));

        Files.write(Standin.picked("content://other/notes.txt"), "no picture".getBytes(StandardCharsets.US_ASCII));
        main.onActivityResult(1, Activity.RESULT_OK, new Intent().setData(Uri.parse("content://other/notes.txt")));
        settle();
        assertEquals("this file is not a picture that Android can read", shown("answer"));
        main.onActivityResult(1, Activity.RESULT_OK, new Intent().setData(Uri.parse("content://other/gone.png")));
        settle();
        assertTrue(shown("answer"), shown("answer").startsWith("the file cannot be read ("));
        main.onActivityResult(1, 0, null);
        settle();
        ask("what is the blue shape?");
        assertEquals("triangle", shown("answer"));
        File[] copies = new File(Standin.folder("files"), "pictures").listFiles();
        assertEquals("copies are cleaned up", 1, copies.length);
    }

    @Test
    public void f_photographsThroughTheProvider() throws Exception {
        tap("photograph");
        assertEquals("android.media.action.IMAGE_CAPTURE", main.started.action);
        assertSame(PhotoProvider.PHOTO, main.started.extras.get("output"));
    }

    @Test
    public void g_selfTestPasses() throws Exception {
        SelfTestActivity screen = new SelfTestActivity();
        screen.onCreate(null);
        screen.onStart();
        main.onStop(); // as Android orders it: the new screen starts before the old one stops
        assertEquals("Running…", text(screen, "headline").getText().toString());
        settle();
        assertEquals("Passed", text(screen, "headline").getText().toString());
        String details = text(screen, "details").getText().toString();
        assertTrue(details, details.contains("Pixels: equal\nAnswer: yellow\nExpected: yellow"));
        main.onStart();
        screen.onStop();
    }

    @Test
    public void h_aDamagedBundleIsRefusedAndTheOpenOneStays() throws Exception {
        File good = new File(Standin.folder("files"), "bundles/nano-onnx-int8");
        File bad = new File(Standin.folder("external"), "bundles/pushed");
        copyTree(good, bad);
        try (RandomAccessFile file = new RandomAccessFile(new File(bad, "vision_injector.onnx"), "rw")) {
            file.seek(1000);
            int value = file.read();
            file.seek(1000);
            file.write(value ^ 1);
        }
        choose("pushed");
        assertTrue(shown("answer"), shown("answer").contains("vision_injector.onnx: content does not match its SHA-256"));
        ask("what is the blue shape?");
        assertEquals("triangle", shown("answer"));
        assertTrue(shown("timings"), shown("timings").startsWith("picture: keys and values kept"));
        copyTree(good, bad);
        choose("pushed");
        assertTrue(shown("status"), shown("status").startsWith("pushed, ONNX Runtime"));
        ask("what is the blue shape?");
        assertEquals("triangle", shown("answer"));
        assertTrue(shown("timings"), shown("timings").contains("vision encoder"));
    }

    private static void choose(String name) throws Exception {
        main.onOptionsItemSelected((MenuItem) () -> Standin.id("model"));
        for (int i = 0; i < AlertDialog.shown.length; i++) {
            if (AlertDialog.shown[i].equals(name)) {
                AlertDialog.choice.onClick(new AlertDialog(), i);
                settle();
                return;
            }
        }
        throw new AssertionError("not offered: " + name);
    }

    private static void copyTree(File from, File to) {
        File[] children = from.listFiles();
        if (children == null) {
            Files.write(to, Files.read(from, 1 << 26));
            return;
        }
        to.mkdirs();
        for (File child : children) {
            copyTree(child, new File(to, child.getName()));
        }
    }

    @Test
    public void h_aModelFromAZipFileIsCheckedAndOpened() throws Exception {
        File good = new File(Standin.folder("files"), "bundles/nano-onnx-int8");
        File zip = Standin.picked("content://other/model.zip");
        try (ZipOutputStream out = new ZipOutputStream(new FileOutputStream(zip))) {
            for (java.nio.file.Path file : java.nio.file.Files.walk(good.toPath()).toArray(java.nio.file.Path[]::new)) {
                if (file.toFile().isFile()) {
                    out.putNextEntry(new ZipEntry("nano/" + good.toPath().relativize(file)));
                    out.write(Files.read(file.toFile(), 1 << 26));
                }
            }
        }
        main.onOptionsItemSelected((MenuItem) () -> Standin.id("model_file"));
        assertEquals("android.intent.action.OPEN_DOCUMENT", main.started.action);
        main.onActivityResult(3, Activity.RESULT_OK, new Intent().setData(Uri.parse("content://other/model.zip")));
        settle();
        File fetched = new File(Standin.folder("external"), "bundles/nano-onnx-int8");
        assertTrue(new File(fetched, "decoder.onnx").isFile());
        assertFalse(new File(Standin.folder("cache"), "model.zip").exists());
        assertTrue(shown("status"), shown("status").startsWith("nano-onnx-int8, ONNX Runtime"));
        ask("what is the blue shape?");
        assertEquals("triangle", shown("answer"));
        Files.deleteTree(fetched);
    }

    @Test
    public void h_addressesAreForTheOnlineKindAlone() throws Exception {
        for (boolean online : new boolean[] {false, true}) {
            Standin.online = online;
            boolean[] offered = new boolean[1];
            main.onPrepareOptionsMenu(id -> new MenuItem() {
                @Override
                public int getItemId() {
                    return id;
                }

                @Override
                public MenuItem setVisible(boolean visible) {
                    offered[0] = visible;
                    return this;
                }
            });
            assertEquals(online, offered[0]);
        }
        main.onOptionsItemSelected((MenuItem) () -> Standin.id("model_address"));
        ((TextView) AlertDialog.view).setText("http://example.com/nano");
        AlertDialog.agree.onClick(new AlertDialog(), 0);
        settle();
        assertTrue(shown("answer"), shown("answer").contains("an address begins with https://"));
        ask("what is the blue shape?");
        assertEquals("triangle", shown("answer"));
    }

    @Test
    public void i_benchmarkWritesItsRecord() throws Exception {
        BenchActivity screen = bench("run.json", "nano-onnx-int8", 5, 10);
        File out = new File(Standin.folder("media"), "run.json");
        assertTrue(out.isFile());
        Map<?, ?> record = (Map<?, ?>) Files.readJson(out, 1 << 22);
        assertEquals(true, record.get("self_test_passed"));
        assertTrue(record.toString(), !record.get("verdict").equals("invalid"));
        assertEquals("Desk Top", ((Map<?, ?>) record.get("device")).get("name"));
        Map<?, ?> reading = (Map<?, ?>) ((List<?>) record.get("readings")).get(0);
        assertEquals(81.0, ((Number) reading.get("battery_percent")).doubleValue(), 0);
        assertEquals(27.3, ((Number) reading.get("battery_temperature_c")).doubleValue(), 1e-9);
        assertEquals("none", reading.get("thermal_state"));
        assertEquals(0.5, ((Number) reading.get("thermal_headroom")).doubleValue(), 0);
        assertEquals(2.0, ((Number) ((Map<?, ?>) reading.get("power_w")).get("battery")).doubleValue(), 1e-9);
        assertEquals(record.get("verdict"), text(screen, "headline").getText());
        assertTrue(text(screen, "details").getText().toString().contains("run.json"));
        dev.himix.edge.PythonRecord.check(out);

        Standin.runUntil(() -> benchmarks() == 0);
        Intent again = new Intent().putExtra("out", "again.json").putExtra("warm_up", 1).putExtra("timed", 1);
        screen.onNewIntent(again);
        File second = new File(Standin.folder("media"), "again.json");
        Standin.runUntil(() -> second.isFile() && Standin.MAIN.isEmpty());
        Map<?, ?> samples = (Map<?, ?>) ((Map<?, ?>) Files.readJson(second, 1 << 22)).get("samples");
        assertEquals(1, ((List<?>) samples.get("load_warm")).size());
    }

    @Test
    public void i_benchmarkObeysTheComputer() throws Exception {
        BenchActivity folder = new BenchActivity();
        folder.intent.putExtra("prepare", true);
        folder.onCreate(null);
        assertTrue(folder.isFinishing());

        Standin.runUntil(() -> benchmarks() == 0);
        BenchActivity screen = new BenchActivity();
        screen.intent.putExtra("out", "load.json").putExtra("bundle", "nano-onnx-int8").putExtra("load_only", true);
        screen.onCreate(null);
        File out = new File(Standin.folder("media"), "load.json");
        Standin.runUntil(() -> out.isFile() && Standin.MAIN.isEmpty());
        assertTrue(((Number) ((Map<?, ?>) Files.readJson(out, 1 << 20)).get("load")).doubleValue() > 0);

        Standin.runUntil(() -> benchmarks() == 0);
        Intent many = new Intent().putExtra("out", "long.json").putExtra("warm_up", 0).putExtra("timed", 1);
        screen.onNewIntent(many.putExtra("new_tokens", 11).putExtra("natural", false).putExtra("sustained_s", 1));
        File record = new File(Standin.folder("media"), "long.json");
        Standin.runUntil(() -> record.isFile() && Standin.MAIN.isEmpty());
        Map<?, ?> read = (Map<?, ?>) Files.readJson(record, 1 << 22);
        assertEquals(10, ((List<?>) ((Map<?, ?>) read.get("samples")).get("inter_token")).size());
        assertEquals(1, ((List<?>) ((Map<?, ?>) read.get("sustained")).get("windows")).size());
        dev.himix.edge.PythonRecord.check(record);
    }

    @Test
    public void i_oneBenchmarkRunsThroughAChangeOfTheScreen() throws Exception {
        Standin.runUntil(() -> benchmarks() == 0);
        BenchActivity folded = new BenchActivity();
        folded.intent.putExtra("out", "one.json").putExtra("bundle", "nano-onnx-int8").putExtra("warm_up", 0).putExtra("timed", 3);
        folded.onCreate(null);
        android.os.Bundle saved = new android.os.Bundle();
        folded.onDestroy();
        BenchActivity unfolded = new BenchActivity();
        unfolded.intent = folded.intent;
        unfolded.onCreate(saved);
        BenchActivity second = new BenchActivity();
        second.intent.putExtra("out", "two.json").putExtra("bundle", "nano-onnx-int8").putExtra("timed", 1);
        second.onNewIntent(second.intent);
        assertEquals(1, benchmarks());
        Standin.runUntil(
                () -> text(unfolded, "details").getText().toString().contains("one.json") && Standin.MAIN.isEmpty());
        assertTrue(new File(Standin.folder("media"), "one.json").isFile());
        assertFalse(new File(Standin.folder("media"), "two.json").exists());
    }

    @Test
    public void j_benchmarkSaysWhyItFailed() throws Exception {
        bench("none.json", "missing", 1, 1);
        String reason = new String(Files.read(new File(Standin.folder("media"), "none.json.error"), 1 << 20), "UTF-8");
        assertTrue(reason, reason.contains("missing: no such bundle; push it there, or use one of [nano-onnx-int8"));
        assertFalse(new File(Standin.folder("media"), "none.json").exists());
        bench("../outside.json", "nano-onnx-int8", 1, 1);
        reason = new String(Files.read(new File(Standin.folder("media"), "bench.json.error"), 1 << 20), "UTF-8");
        assertEquals("out: \"../outside.json\" is not a plain file name\n", reason);
        assertFalse(new File(Standin.root, "outside.json").exists());
        bench("none.json", "nano-onnx-int8", 1, 0);
        reason = new String(Files.read(new File(Standin.folder("media"), "none.json.error"), 1 << 20), "UTF-8");
        assertTrue(reason, reason.contains("at least 1 timed iteration"));
    }

    private static long benchmarks() {
        return Thread.getAllStackTraces().keySet().stream().filter(t -> t.getName().equals("benchmark")).count();
    }

    private static BenchActivity bench(String out, String bundle, int warmUp, int timed) throws Exception {
        Standin.runUntil(() -> benchmarks() == 0);
        BenchActivity screen = new BenchActivity();
        screen.intent.putExtra("out", out).putExtra("bundle", bundle).putExtra("warm_up", warmUp).putExtra("timed", timed);
        screen.onCreate(null);
        String running = "Running…";
        Standin.runUntil(
                () -> !text(screen, "headline").getText().toString().equals(running) && Standin.MAIN.isEmpty());
        return screen;
    }
}
