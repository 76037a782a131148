package android.graphics;

import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import javax.imageio.ImageIO;

public class BitmapFactory {
    public static class Options {
        public boolean inJustDecodeBounds;
        public boolean inPremultiplied = true;
        public boolean inScaled = true;
        public int inSampleSize;
        public int outWidth;
        public int outHeight;
    }

    public static Bitmap decodeFile(String path, Options options) {
        BufferedImage image;
        try {
            image = ImageIO.read(new File(path));
        } catch (IOException error) {
            image = null;
        }
        options.outWidth = image == null ? -1 : image.getWidth();
        options.outHeight = image == null ? -1 : image.getHeight();
        return image == null || options.inJustDecodeBounds ? null : new Bitmap(image);
    }
}
