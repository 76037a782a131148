package dev.himix.edge.demo;

import android.content.Context;
import android.graphics.Bitmap;
import android.net.Uri;
import android.os.Handler;
import android.os.Looper;
import android.util.Log;
import dev.himix.edge.Bundle;
import dev.himix.edge.Files;
import dev.himix.edge.ImageKV;
import dev.himix.edge.InputException;
import dev.himix.edge.OnnxRuntime;
import dev.himix.edge.SelfTest;
import dev.himix.edge.Session;
import dev.himix.edge.Stats;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.LinkedHashSet;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * The one session of this process and what is on the screen. It outlives activities, so that turning the device
 * neither loses an answer nor encodes the picture again. Fields are read and written on the main thread; the session
 * is used on one thread of its own.
 */
final class Demo {
    private static final String COPIED = "picked-";
    private static Demo instance;

    /** Told on the main thread that something changed. */
    interface Observer {
        void changed();
    }

    /** Work on the session's thread. */
    private interface Work {
        void run();
    }

    String bundle; // name
    Bitmap preview;
    String answer = "";
    String status = "";
    String error = "";
    Stats stats; // of the last answer
    Stats imageStats; // of the picture's stages, if they ran for the last answer
    boolean busy;
    SelfTest selfTest;

    private final Context context;
    private final ExecutorService worker = Executors.newSingleThreadExecutor();
    private final Handler main = new Handler(Looper.getMainLooper());
    private final Set<Observer> observers = new LinkedHashSet<Observer>();
    private int pending;
    private volatile boolean stopped;

    // of the session's thread
    private Session session;
    private File picture;
    private ImageKV image;
    private File encoded; // the picture that `image` was made of

    private Demo(Context context) {
        this.context = context;
    }

    static synchronized Demo of(Context context) {
        if (instance == null) {
            instance = new Demo(context.getApplicationContext());
        }
        return instance;
    }

    /** From now on the observer is told of changes, first of how things stand. */
    void add(Observer observer) {
        observers.add(observer);
        observer.changed();
    }

    void remove(Observer observer) {
        observers.remove(observer);
    }

    /** Opens a bundle by name; null: the one to start with. The picture stays, its keys and values do not. */
    void open(final String name) {
        start(context.getString(R.string.opening), new Work() {
            @Override
            public void run() {
                Runtime.load();
                final String chosen = name == null ? Bundles.first(context) : name;
                Bundle next = Bundle.open(Bundles.folder(context, chosen)); // a bad one leaves the open one as it is
                if (session != null) {
                    session.close();
                    session = null;
                }
                image = null;
                encoded = null;
                show(new Work() {
                    @Override
                    public void run() {
                        bundle = null;
                        selfTest = null;
                        stats = null;
                        imageStats = null;
                        answer = "";
                    }
                });
                session = Session.open(next, Runtime.threads());
                show(new Work() {
                    @Override
                    public void run() {
                        bundle = chosen;
                    }
                });
            }
        });
    }

    /** Takes another app's picture, or the camera's: it is copied, since the right to read it ends. */
    void take(final Uri uri) {
        start(context.getString(R.string.reading_picture), new Work() {
            @Override
            public void run() {
                File copy = copyOf(uri);
                try {
                    use(copy);
                } catch (InputException error) {
                    copy.delete();
                    throw error;
                }
            }
        });
    }

    /** Takes a picture file that does not change any more. */
    void take(final File file) {
        start(context.getString(R.string.reading_picture), new Work() {
            @Override
            public void run() {
                use(file);
            }
        });
    }

    private File copyOf(Uri uri) {
        File file = new File(context.getCacheDir(), COPIED + System.currentTimeMillis());
        try (InputStream in = context.getContentResolver().openInputStream(uri);
                FileOutputStream out = new FileOutputStream(file)) {
            if (in == null) {
                throw new IOException("it is gone");
            }
            Files.copy(in, out);
            return file;
        } catch (IOException | SecurityException error) {
            file.delete();
            throw new InputException("the picture cannot be read (" + error.getMessage() + ")");
        }
    }

    private void use(File file) {
        final Bitmap small = Photos.preview(file, 1024);
        File old = picture;
        picture = file;
        if (old != null && !old.equals(file) && old.getName().startsWith(COPIED)) {
            old.delete();
        }
        show(new Work() {
            @Override
            public void run() {
                preview = small;
                stats = null;
                imageStats = null;
                answer = "";
            }
        });
    }

    /** Asks about the picture, or without one. The first question about a picture encodes it, further ones reuse it. */
    void ask(final String question) {
        stopped = false;
        answer = "";
        stats = null;
        imageStats = null;
        start(context.getString(R.string.answering), new Work() {
            @Override
            public void run() {
                if (session == null) {
                    throw new InputException(context.getString(R.string.no_models));
                }
                File file = picture;
                Stats stages = null;
                if (file != null && !file.equals(encoded)) {
                    image = session.encodeImage(Photos.of(file));
                    encoded = file;
                    stages = session.stats();
                }
                final Stats pictureTimes = stages;
                final Stats times =
                        session.generate(question, file == null ? null : image, session.defaults(), new Session.Listener() {
                            @Override
                            public boolean onToken(int token, final String text) {
                                show(new Work() {
                                    @Override
                                    public void run() {
                                        answer += text;
                                    }
                                });
                                return !stopped;
                            }
                        });
                show(new Work() {
                    @Override
                    public void run() {
                        stats = times;
                        imageStats = pictureTimes;
                    }
                });
            }
        });
    }

    void stop() {
        stopped = true;
    }

    /** Runs the open bundle's self-test, after checking its files once more. */
    void test() {
        selfTest = null;
        start(context.getString(R.string.running), new Work() {
            @Override
            public void run() {
                if (session == null) {
                    throw new InputException(context.getString(R.string.no_models));
                }
                session.bundle.verify();
                File file = new File(session.bundle.folder, session.bundle.selfTest.image);
                final SelfTest result = SelfTest.run(session, Photos.of(file));
                show(new Work() {
                    @Override
                    public void run() {
                        selfTest = result;
                    }
                });
            }
        });
    }

    private void start(final String what, final Work work) {
        pending++;
        busy = true;
        status = what;
        error = "";
        changed();
        worker.execute(new Runnable() {
            @Override
            public void run() {
                String problem = "";
                try {
                    work.run();
                } catch (InputException wrong) {
                    problem = wrong.getMessage();
                } catch (OutOfMemoryError wrong) {
                    problem = "not enough memory on this device";
                } catch (RuntimeException wrong) { // the last net: a line, and what led to it in the log
                    Log.e("HimixDemo", what, wrong);
                    problem = "that failed unexpectedly: " + wrong;
                }
                final String message = problem;
                show(new Work() {
                    @Override
                    public void run() {
                        busy = --pending > 0;
                        error = message;
                        status = bundle == null ? "" : context.getString(R.string.status, bundle, OnnxRuntime.version());
                    }
                });
            }
        });
    }

    private void show(final Work change) {
        main.post(new Runnable() {
            @Override
            public void run() {
                change.run();
                changed();
            }
        });
    }

    private void changed() {
        for (Observer observer : observers) {
            observer.changed();
        }
    }
}
