package dev.himix.edge.demo;

import android.content.Context;
import android.content.res.AssetManager;
import dev.himix.edge.Benchmark;
import dev.himix.edge.Bundle;
import dev.himix.edge.Files;
import dev.himix.edge.InputException;
import dev.himix.edge.Json;
import dev.himix.edge.Stop;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;

/**
 * The bundles of this device: those in the app, and those that were pushed to its media folder
 * ({@code adb push BUNDLE /sdcard/Android/media/dev.himix.edge.demo/bundles/}), which both adb's shell and the app may
 * use on every Android, or to its external files folder, which adb's shell may not on some. A pushed one goes before one
 * of the same name in the app. And the sample pictures with their questions.
 */
final class Bundles {
    private static final String ASSETS = "bundles";
    private static final String SAMPLES = "samples";

    private Bundles() {}

    /** Names of all bundles, those of the app included. */
    static List<String> names(Context context) {
        TreeSet<String> names = new TreeSet<String>(shipped(context));
        for (File place : pushedFolders(context)) {
            File[] pushed = place.listFiles();
            for (File folder : pushed == null ? new File[0] : pushed) {
                if (Bundle.isName(folder.getName()) && new File(folder, Bundle.MANIFEST).isFile()) {
                    names.add(folder.getName());
                }
            }
        }
        return new ArrayList<String>(names);
    }

    /** The bundle to start with. Throws InputException if there is none. */
    static String first(Context context) {
        List<String> names = shipped(context).isEmpty() ? names(context) : shipped(context);
        if (names.isEmpty()) {
            throw new InputException(context.getString(R.string.no_models));
        }
        return names.get(0);
    }

    /** As below, and nothing ends it. */
    static File folder(Context context, String name) {
        return folder(context, name, Stop.NEVER);
    }

    /** A bundle's folder; one of the app is copied out first. Throws InputException if there is none of that name. */
    static synchronized File folder(Context context, String name, Stop stop) {
        if (!Bundle.isName(name)) {
            throw new InputException("\"" + name + "\" is not a bundle's name");
        }
        File pushed = null;
        for (File place : pushedFolders(context)) {
            pushed = new File(place, name);
            if (pushed.isDirectory()) {
                return pushed;
            }
        }
        if (!shipped(context).contains(name)) {
            throw new InputException(pushed + ": no such bundle; push it there, or use one of " + names(context));
        }
        File folder = new File(new File(context.getFilesDir(), ASSETS), name);
        String from = ASSETS + "/" + name;
        byte[] manifest = asset(context, from + "/" + Bundle.MANIFEST);
        File installed = new File(folder, Bundle.MANIFEST);
        boolean current = installed.isFile() && Arrays.equals(manifest, Files.read(installed, manifest.length));
        if (!current) {
            File staged = new File(folder.getPath() + ".staging");
            Files.deleteTree(staged);
            copyTree(context, from, staged, stop);
            Files.deleteTree(folder);
            if (!staged.renameTo(folder)) {
                throw new InputException(folder + ": cannot be written");
            }
        }
        return folder;
    }

    private static List<String> shipped(Context context) {
        try {
            String[] names = context.getAssets().list(ASSETS);
            return names == null ? new ArrayList<String>() : Arrays.asList(names);
        } catch (IOException error) {
            return new ArrayList<String>();
        }
    }

    /** Where adb's shell and this app may both read and write; made if it is not there. */
    @SuppressWarnings("deprecation") // for pictures there is another way now, for these files there is none
    static File shared(Context context) {
        File[] media = context.getExternalMediaDirs();
        return media != null && media.length > 0 && media[0] != null ? media[0] : context.getExternalFilesDir(null);
    }

    private static File[] pushedFolders(Context context) {
        return new File[] {
            new File(context.getExternalFilesDir(null), ASSETS), new File(shared(context), ASSETS),
        };
    }

    /** Where models that this app itself fetches go. */
    static File fetchedFolder(Context context) {
        File folder = new File(context.getExternalFilesDir(null), ASSETS);
        if (!folder.isDirectory() && !folder.mkdirs()) {
            throw new InputException(folder + ": cannot be made; is the device full?");
        }
        return folder;
    }

    /** The sample pictures' questions, in the order of the file; pictures are copied out of the app. */
    static List<Benchmark.Question> samples(Context context) {
        List<Benchmark.Question> questions = new ArrayList<Benchmark.Question>();
        String text = new String(asset(context, SAMPLES + "/probe.json"), StandardCharsets.UTF_8);
        for (Object item : (List<?>) Json.parse(text)) {
            Map<?, ?> sample = (Map<?, ?>) item;
            String image = (String) sample.get("image");
            Map<?, ?> asked = (Map<?, ?>) ((List<?>) sample.get("conversations")).get(0);
            String prompt = ((String) asked.get("value")).replace("<image>", "").trim();
            questions.add(new Benchmark.Question(image, Photos.of(sampleFile(context, image)), prompt));
        }
        return questions;
    }

    /** File names of the sample pictures. */
    static List<String> sampleImages(Context context) {
        TreeSet<String> images = new TreeSet<String>();
        for (Benchmark.Question question : samples(context)) {
            images.add(question.image);
        }
        return new ArrayList<String>(images);
    }

    static File sampleFile(Context context, String image) {
        File file = new File(context.getCacheDir(), "sample-" + image);
        if (!file.isFile()) {
            Files.write(file, asset(context, SAMPLES + "/" + image));
        }
        return file;
    }

    private static byte[] asset(Context context, String path) {
        try (InputStream in = context.getAssets().open(path)) {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            Files.copy(in, out);
            return out.toByteArray();
        } catch (IOException error) {
            throw new InputException(path + ": not in this app");
        }
    }

    private static void copyTree(Context context, String from, File to, Stop stop) {
        AssetManager assets = context.getAssets();
        try {
            String[] children = assets.list(from);
            if (children == null || children.length == 0) {
                try (InputStream in = assets.open(from);
                        FileOutputStream out = new FileOutputStream(to)) {
                    Files.copy(in, out, stop);
                }
                return;
            }
            if (!to.isDirectory() && !to.mkdirs()) {
                throw new IOException("cannot be made");
            }
            for (String child : children) {
                copyTree(context, from + "/" + child, new File(to, child), stop);
            }
        } catch (IOException error) {
            throw new InputException(to + ": cannot be written (" + error.getMessage() + "); is the device full?");
        }
    }
}
