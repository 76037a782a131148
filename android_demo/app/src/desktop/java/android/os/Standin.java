package android.os;

import android.view.View;
import java.io.File;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import javax.xml.parsers.DocumentBuilderFactory;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;

/** Not Android's: what the stand-ins share. The main thread's queue, folders, and resources read from the app's XML. */
public final class Standin {
    public static final BlockingQueue<Runnable> MAIN = new LinkedBlockingQueue<>();
    public static final File ASSETS = new File(System.getProperty("himix.assets"));
    public static boolean online; // whether the app has the permission for it
    public static File root; // of the device's folders
    private static final File RESOURCES = new File(System.getProperty("himix.resources"));
    private static final String ANDROID = "http://schemas.android.com/apk/res/android";

    private Standin() {}

    /** Runs the main thread's work until the condition holds; fails after two minutes. */
    public static void runUntil(BooleanSupplier condition) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.MINUTES.toNanos(2);
        while (!condition.getAsBoolean()) {
            Runnable work = MAIN.poll(100, TimeUnit.MILLISECONDS);
            if (work != null) {
                work.run();
            } else if (System.nanoTime() > end) {
                throw new AssertionError("nothing happened for two minutes");
            }
        }
    }

    public static File folder(String name) {
        File folder = new File(root, name);
        folder.mkdirs();
        return folder;
    }

    public static File picked(String uri) {
        return new File(folder("other-app"), uri.replaceAll(".*/", ""));
    }

    public static String string(int id) {
        NodeList strings = xml(new File(RESOURCES, "values/strings.xml")).getElementsByTagName("string");
        for (int i = 0; i < strings.getLength(); i++) {
            Element string = (Element) strings.item(i);
            if (string.getAttribute("name").equals(name("string", id))) {
                return string.getTextContent().replace("\\n", "\n");
            }
        }
        throw new AssertionError("no string " + id);
    }

    /** The views with ids of a layout file; a tag is the class android.widget.TAG. */
    public static Map<Integer, View> inflate(int layout) {
        Map<Integer, View> views = new HashMap<>();
        NodeList all = xml(new File(RESOURCES, "layout/" + name("layout", layout) + ".xml")).getElementsByTagName("*");
        for (int i = 0; i < all.getLength(); i++) {
            Element element = (Element) all.item(i);
            String id = element.getAttributeNS(ANDROID, "id").replace("@+id/", "");
            if (!id.isEmpty()) {
                try {
                    Class<?> type = Class.forName("android.widget." + element.getTagName());
                    views.put(id(id), (View) type.getConstructor().newInstance());
                } catch (ReflectiveOperationException error) {
                    throw new AssertionError(error);
                }
            }
        }
        return views;
    }

    private static Document xml(File file) {
        try {
            DocumentBuilderFactory factory = DocumentBuilderFactory.newInstance();
            factory.setNamespaceAware(true);
            return factory.newDocumentBuilder().parse(file);
        } catch (Exception error) {
            throw new AssertionError(file + ": " + error);
        }
    }

    private static String name(String kind, int id) {
        try {
            for (java.lang.reflect.Field field : Class.forName("dev.himix.edge.demo.R$" + kind).getFields()) {
                if (field.getInt(null) == id) {
                    return field.getName();
                }
            }
        } catch (ReflectiveOperationException error) {
            throw new AssertionError(error);
        }
        throw new AssertionError("no " + kind + " " + id);
    }

    /** The number of a resource of kind id by name. */
    public static int id(String name) {
        return number("id", name);
    }

    public static int number(String kind, String name) {
        try {
            return Class.forName("dev.himix.edge.demo.R$" + kind).getField(name).getInt(null);
        } catch (ReflectiveOperationException error) {
            throw new AssertionError(error);
        }
    }
}
