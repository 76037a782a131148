package android.app;

public class ActivityManager {
    public void getMemoryInfo(MemoryInfo info) {
        info.totalMem = 8L << 30;
    }

    public static class MemoryInfo {
        public long totalMem;
    }
}
