package dev.himix.edge.demo;

import android.content.Context;
import android.graphics.Bitmap;
import android.net.Uri;
import android.os.Handler;
import android.os.Looper;
import android.util.Log;
import dev.himix.edge.ArchiveSource;
import dev.himix.edge.Bundle;
import dev.himix.edge.Catalogue;
import dev.himix.edge.Chat;
import dev.himix.edge.Files;
import dev.himix.edge.ImageKV;
import dev.himix.edge.InputException;
import dev.himix.edge.Installing;
import dev.himix.edge.OnnxRuntime;
import dev.himix.edge.SelfTest;
import dev.himix.edge.Session;
import dev.himix.edge.Source;
import dev.himix.edge.Stats;
import dev.himix.edge.Stop;
import dev.himix.edge.WebSource;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.LinkedHashSet;
import java.util.List;
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
    private static final long LARGEST_MODEL = 16L << 30;
    private static Demo instance;

    /** Told on the main thread that something changed. */
    interface Observer {
        void changed();
    }

    /** Work on the session's thread; {@code stop} may end it. */
    private interface Work {
        void run(Stop stop);
    }

    /** A change of what is shown, on the main thread. */
    private interface Change {
        void run();
    }

    /** One piece of work that can be ended. */
    private static final class Flag implements Stop {
        private volatile boolean raised;

        @Override
        public void check() {
            if (raised) {
                throw new Stop.Stopped();
            }
        }
    }

    String bundle; // name
    Bitmap preview;
    boolean chatting;
    String said = ""; // earlier in this chat
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
    private final Set<Flag> flags = new LinkedHashSet<Flag>(); // of work that has not ended, on the main thread
    private File pictureFile; // the one that is shown
    private String asked = "";

    // of the session's thread
    private Session session;
    private File picture;
    private ImageKV image;
    private Chat chat;
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
            public void run(Stop stop) {
                Runtime.load();
                final String chosen = name == null ? Bundles.first(context) : name;
                Bundle next = Bundle.open(Bundles.folder(context, chosen, stop), stop); // a bad one leaves the open one as it is
                if (session != null) {
                    session.close();
                    session = null;
                }
                forgetImage();
                show(new Change() {
                    @Override
                    public void run() {
                        bundle = null;
                        selfTest = null;
                        clear();
                    }
                });
                session = Session.open(next, Runtime.threads(), stop);
                show(new Change() {
                    @Override
                    public void run() {
                        bundle = chosen;
                    }
                });
            }
        });
    }

    /** Takes a model out of another app's zip file, and opens it. */
    void installFile(final Uri uri) {
        start(context.getString(R.string.fetching, 0, 0), new Work() {
            @Override
            public void run(Stop stop) {
                File copy = new File(context.getCacheDir(), "model.zip");
                try {
                    copyTo(copy, uri, stop);
                    try (ArchiveSource source = new ArchiveSource(copy)) {
                        install(source, "", stop);
                    }
                } finally {
                    copy.delete();
                }
            }
        });
    }

    /** Fetches the model at an address, and opens it; {@code manifestSha256} as in {@link Installing#run}. */
    void installAddress(final String address, final String manifestSha256) {
        start(context.getString(R.string.fetching, 0, 0), new Work() {
            @Override
            public void run(Stop stop) {
                install(new WebSource(address), manifestSha256, stop);
            }
        });
    }

    /** Fetches a list of models; {@code then} gets it on the main thread. */
    void list(final String address, final Listed then) {
        start(context.getString(R.string.fetching, 0, 0), new Work() {
            @Override
            public void run(Stop stop) {
                final List<Catalogue.Entry> entries = Catalogue.read(address, stop);
                show(new Change() {
                    @Override
                    public void run() {
                        then.listed(entries);
                    }
                });
            }
        });
    }

    /** Receives a list of models. */
    interface Listed {
        void listed(List<Catalogue.Entry> entries);
    }

    private void install(Source source, String manifestSha256, Stop stop) {
        Installing.Progress progress = new Installing.Progress() {
            private long shown = -1;

            @Override
            public void fetched(long bytes, long of) {
                final int megabytes = (int) (bytes / 1_000_000);
                final int all = (int) (of / 1_000_000);
                if (megabytes != shown) {
                    shown = megabytes;
                    show(new Change() {
                        @Override
                        public void run() {
                            status = context.getString(R.string.fetching, megabytes, all);
                        }
                    });
                }
            }
        };
        final String name =
                new Installing(source, Bundles.fetchedFolder(context), LARGEST_MODEL, stop, progress).run(manifestSha256);
        show(new Change() {
            @Override
            public void run() {
                open(name);
            }
        });
    }

    /** Takes another app's picture, or the camera's: it is copied, since the right to read it ends. */
    void take(final Uri uri) {
        start(context.getString(R.string.reading_picture), new Work() {
            @Override
            public void run(Stop stop) {
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
            public void run(Stop stop) {
                use(file);
            }
        });
    }

    /** Not in the cache, which Android may empty while the app is away. */
    private File copyOf(Uri uri) {
        File folder = new File(context.getFilesDir(), "pictures");
        folder.mkdirs();
        for (File left : folder.listFiles()) { // by a process that ended
            if (!left.equals(picture)) {
                left.delete();
            }
        }
        File file = new File(folder, COPIED + System.currentTimeMillis());
        copyTo(file, uri, Stop.NEVER);
        return file;
    }

    private void copyTo(File file, Uri uri, Stop stop) {
        boolean whole = false;
        try (InputStream in = context.getContentResolver().openInputStream(uri);
                FileOutputStream out = new FileOutputStream(file)) {
            if (in == null) {
                throw new IOException("it is gone");
            }
            Files.copy(in, out, stop);
            whole = true;
        } catch (IOException | SecurityException error) {
            throw new InputException("the file cannot be read (" + error.getMessage() + ")");
        } finally {
            if (!whole) {
                file.delete();
            }
        }
    }

    private void use(File file) {
        final Bitmap small = Photos.preview(file, 1024);
        File old = picture;
        picture = file;
        if (old != null && !old.equals(file) && old.getName().startsWith(COPIED)) {
            old.delete();
        }
        show(new Change() {
            @Override
            public void run() {
                preview = small;
                pictureFile = file;
                clear();
            }
        });
    }

    /**
     * Asks about the picture, or without one. The first question about a picture encodes it, further ones reuse it. In a
     * chat a question comes behind what was said before; otherwise each is alone.
     */
    void ask(final String question) {
        if (chatting && !answer.isEmpty()) {
            said += asked + "\n" + answer + "\n\n";
        }
        asked = question;
        answer = "";
        stats = null;
        imageStats = null;
        final boolean inChat = chatting;
        start(context.getString(R.string.answering), new Work() {
            @Override
            public void run(final Stop stop) {
                if (session == null) {
                    throw new InputException(context.getString(R.string.no_model_open));
                }
                File file = picture;
                Stats stages = null;
                if (file != null && !file.equals(encoded)) {
                    forgetImage();
                    image = session.encodeImage(Photos.of(file), stop);
                    encoded = file;
                    stages = session.stats();
                }
                stop.check();
                if (chat == null || !inChat) {
                    chat = session.chat(file == null ? null : image, "");
                }
                final Stats pictureTimes = stages;
                final Stats times =
                        chat.send(question, session.defaults(), new Session.Listener() {
                            @Override
                            public boolean onToken(int token, final String text) {
                                show(new Change() {
                                    @Override
                                    public void run() {
                                        answer += text;
                                    }
                                });
                                return !((Flag) stop).raised;
                            }
                        });
                show(new Change() {
                    @Override
                    public void run() {
                        stats = times;
                        imageStats = pictureTimes;
                    }
                });
            }
        });
    }

    /** Whether questions follow each other from now on; either way the next one starts anew. */
    void setChatting(boolean on) {
        chatting = on;
        newChat();
    }

    /** Forgets what was said; the picture and its keys and values stay. */
    void newChat() {
        clear();
        start(status, new Work() {
            @Override
            public void run(Stop stop) {
                chat = null;
            }
        });
    }

    private void clear() {
        stats = null;
        imageStats = null;
        said = "";
        asked = "";
        answer = "";
    }

    /** Gives back a picture's keys and values, and the conversation about it. */
    private void forgetImage() {
        chat = null;
        encoded = null;
        if (image != null) {
            image.close();
            image = null;
        }
    }

    /** Ends what is going on: opening a model, reading a picture, an answer. */
    void stop() {
        for (Flag flag : flags) {
            flag.raised = true;
        }
    }

    /** What another process needs to show the same, should Android end this one. */
    void save(android.os.Bundle state) {
        state.putString("bundle", bundle);
        state.putString("picture", pictureFile == null ? null : pictureFile.getPath());
        state.putBoolean("chatting", chatting);
        state.putString("said", said + (answer.isEmpty() ? "" : asked + "\n" + answer + "\n\n"));
    }

    /** Shows what {@link #save} kept, unless this is the process that kept it. */
    void restore(android.os.Bundle state) {
        if (state == null || bundle != null || busy) {
            return;
        }
        String name = state.getString("bundle");
        open(name != null && Bundles.names(context).contains(name) ? name : null);
        String path = state.getString("picture");
        if (path != null && new File(path).isFile()) {
            take(new File(path));
        }
        chatting = state.getBoolean("chatting");
        final String kept = state.getString("said");
        start(status, new Work() {
            @Override
            public void run(Stop stop) {
                show(new Change() {
                    @Override
                    public void run() {
                        said = kept == null ? "" : kept;
                    }
                });
            }
        });
    }

    /** Runs the open bundle's self-test, after checking its files once more. */
    void test() {
        selfTest = null;
        start(context.getString(R.string.running), new Work() {
            @Override
            public void run(Stop stop) {
                if (session == null) {
                    throw new InputException(context.getString(R.string.no_model_open));
                }
                session.bundle.verify();
                File file = new File(session.bundle.folder, session.bundle.selfTest.image);
                final SelfTest result = SelfTest.run(session, Photos.of(file));
                show(new Change() {
                    @Override
                    public void run() {
                        selfTest = result;
                    }
                });
            }
        });
    }

    private void start(final String what, final Work work) {
        final Flag flag = new Flag();
        flags.add(flag);
        busy = true;
        status = what;
        error = "";
        changed();
        worker.execute(new Runnable() {
            @Override
            public void run() {
                String problem = "";
                try {
                    flag.check();
                    work.run(flag);
                } catch (Stop.Stopped wanted) {
                    problem = "";
                } catch (InputException wrong) {
                    problem = wrong.getMessage();
                } catch (OutOfMemoryError wrong) {
                    problem = "not enough memory on this device";
                } catch (Throwable wrong) { // the last net: a line, and what led to it in the log
                    Log.e("HimixDemo", what, wrong);
                    problem = "that failed unexpectedly: " + wrong;
                }
                final String message = problem;
                show(new Change() {
                    @Override
                    public void run() {
                        flags.remove(flag);
                        busy = !flags.isEmpty();
                        error = message;
                        status = bundle == null ? "" : context.getString(R.string.status, bundle, OnnxRuntime.version());
                    }
                });
            }
        });
    }

    private void show(final Change change) {
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
