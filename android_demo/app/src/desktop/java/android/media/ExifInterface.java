package android.media;

/** Every picture stands upright here. */
public class ExifInterface {
    public ExifInterface(String path) throws java.io.IOException {}

    public int getAttributeInt(String name, int otherwise) {
        return otherwise;
    }
}
