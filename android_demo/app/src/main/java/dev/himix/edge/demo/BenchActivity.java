package dev.himix.edge.demo;

import android.app.Activity;
import android.content.Intent;
import android.os.Bundle;
import android.os.Process;
import android.util.Log;
import android.view.View;
import android.view.WindowManager;
import android.widget.TextView;
import dev.himix.edge.Benchmark;
import dev.himix.edge.Files;
import dev.himix.edge.InputException;
import dev.himix.edge.Json;
import dev.himix.edge.Session;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * Benchmarks a bundle and writes the record into the app's media folder. From a computer:
 *
 * <pre>
 * adb shell am start -S -n dev.himix.edge.demo/.BenchActivity --es bundle NAME --es out FILE
 * adb pull /sdcard/Android/media/dev.himix.edge.demo/FILE
 * </pre>
 *
 * -S ends what is left of an earlier run, so that the bundle is opened in a fresh process. Also: {@code --ei warm_up N
 * --ei timed N --ei threads N --ei new_tokens N --ez natural true --ei sustained_s N}. {@code --ez load_only true} only
 * opens the bundle, and FILE has the milliseconds; {@code --ez prepare true} only makes the folder. If it fails,
 * FILE.error has the reason in one line. Both appear as a whole, and the log tag HimixBench tells of them.
 */
public final class BenchActivity extends Activity {
    private static final String TAG = "HimixBench";
    private static final String DEFAULT_OUT = "bench.json";

    // of the process: a run goes on, alone, while the screen is made anew for another size, font or language
    private static final AtomicBoolean RUNNING = new AtomicBoolean();
    private static BenchActivity screen; // the one that shows it; of the main thread, as the next two
    private static String title = "";
    private static String text = "";

    private TextView headline;
    private TextView details;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        if (getIntent().getBooleanExtra("prepare", false)) {
            Bundles.shared(this);
            finish();
            return;
        }
        setContentView(R.layout.report);
        Edges.pad(findViewById(R.id.root));
        getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        headline = (TextView) findViewById(R.id.headline);
        details = (TextView) findViewById(R.id.details);
        findViewById(R.id.again).setVisibility(View.GONE);
        screen = this;
        headline.setText(title);
        details.setText(text);
        if (saved == null || title.isEmpty()) { // else it is shown anew, and was started already
            start(getIntent());
        }
    }

    /** Another `am start` while this screen is still there; one that comes during a run is ignored. */
    @Override
    protected void onNewIntent(Intent intent) {
        super.onNewIntent(intent);
        start(intent);
    }

    private void start(final Intent intent) {
        if (!RUNNING.compareAndSet(false, true)) {
            return;
        }
        show(getString(R.string.running), "");
        new Thread("benchmark") {
            @Override
            public void run() {
                try {
                    measure(intent);
                } finally {
                    RUNNING.set(false);
                }
            }
        }.start();
    }

    @Override
    protected void onDestroy() {
        super.onDestroy();
        if (screen == this) {
            screen = null;
        }
        if (isFinishing()) {
            Process.killProcess(Process.myPid()); // the next benchmark starts in a fresh process
        }
    }

    private void measure(Intent intent) {
        String asked = intent.getStringExtra("out");
        boolean plain = asked != null && asked.matches("[A-Za-z0-9][A-Za-z0-9._-]*");
        File out = new File(Bundles.shared(this), plain ? asked : DEFAULT_OUT);
        File failed = new File(out.getPath() + ".error");
        out.delete();
        failed.delete();
        try {
            if (asked != null && !plain) {
                throw new InputException("out: \"" + asked + "\" is not a plain file name");
            }
            if (intent.getBooleanExtra("load_only", false)) {
                Runtime.load();
                double time = Benchmark.load(Bundles.folder(this, bundle(intent)), options(intent).threads);
                String line = Json.write(Collections.<String, Object>singletonMap("load", time));
                Files.write(out, line.getBytes(StandardCharsets.UTF_8));
                show("load", time + " ms");
                return;
            }
            Map<String, Object> record = run(intent);
            Files.write(out, Json.write(record).getBytes(StandardCharsets.UTF_8));
            Log.i(TAG, "done: " + out);
            show(record.get("verdict").toString(), summary(record, out));
        } catch (InputException error) {
            fail(failed, error.getMessage(), error);
        } catch (Throwable error) { // whoever waits for the record has to learn of any
            fail(failed, error.toString(), error);
        }
    }

    /** Whoever waits for the record has to learn of this. */
    private void fail(File file, String reason, Throwable error) {
        Log.e(TAG, reason, error);
        Files.write(file, (reason.split("\n")[0] + "\n").getBytes(StandardCharsets.UTF_8));
        show(getString(R.string.failed), reason);
    }

    private Map<String, Object> run(Intent intent) {
        Runtime.load();
        final String name = bundle(intent);
        Benchmark.Options options = options(intent);
        Benchmark.Platform platform = new Benchmark.Platform() {
            @Override
            public Map<String, Object> device() {
                return Device.facts(BenchActivity.this);
            }

            @Override
            public Map<String, Object> reading() {
                return Device.reading(BenchActivity.this);
            }

            @Override
            public Session.Photo photo(File file) {
                return Photos.of(file);
            }

            @Override
            public void progress(int done, int of) {
                show(getString(R.string.running), getString(R.string.bench_progress, name, done, of));
            }
        };
        List<Benchmark.Question> questions = Bundles.samples(this);
        String command =
                "am start -n dev.himix.edge.demo/.BenchActivity --es bundle " + name + " --ei warm_up " + options.warmUp
                        + " --ei timed " + options.timed + " --ei threads " + options.threads + " --ei new_tokens "
                        + options.newTokens + " --ez natural " + options.natural
                        + (options.sustainedSeconds > 0 ? " --ei sustained_s " + options.sustainedSeconds : "");
        return new Benchmark(Bundles.folder(this, name), questions, platform, options).run(command);
    }

    private String bundle(Intent intent) {
        String asked = intent.getStringExtra("bundle");
        return asked == null ? Bundles.first(this) : asked;
    }

    private static Benchmark.Options options(Intent intent) {
        Benchmark.Options options = new Benchmark.Options();
        options.threads = intent.getIntExtra("threads", Runtime.threads());
        options.warmUp = intent.getIntExtra("warm_up", options.warmUp);
        options.timed = intent.getIntExtra("timed", options.timed);
        options.newTokens = intent.getIntExtra("new_tokens", options.newTokens);
        options.natural = intent.getBooleanExtra("natural", false);
        options.sustainedSeconds = intent.getIntExtra("sustained_s", 0);
        return options;
    }

    private String summary(Map<String, Object> record, File out) {
        Map<?, ?> samples = (Map<?, ?>) record.get("samples");
        return getString(
                R.string.bench_done, ((Map<?, ?>) record.get("bundle")).get("name"), record.get("verdict"),
                median(samples.get("ttft")), median(samples.get("warm_ttft")), out);
    }

    @SuppressWarnings("unchecked")
    private static double median(Object values) {
        return Benchmark.median(values == null ? Collections.singletonList(0.0) : (List<Double>) values);
    }

    private void show(final String nowTitle, final String nowText) {
        runOnUiThread(new Runnable() {
            @Override
            public void run() {
                title = nowTitle;
                text = nowText;
                if (screen != null) {
                    screen.headline.setText(title);
                    screen.details.setText(text);
                }
            }
        });
    }
}
