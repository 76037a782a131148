package android.os;

public class Build {
    public static final String MANUFACTURER = text("Desk");
    public static final String MODEL = text("Top");
    public static final String HARDWARE = text("standin");
    public static final String[] SUPPORTED_ABIS = {"x86_64"};

    public static class VERSION {
        public static final int SDK_INT = Integer.parseInt("34");
        public static final String RELEASE = text("14");
    }

    private static String text(String value) {
        return value; // not a constant that a compiler would copy
    }
}
