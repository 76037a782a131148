package android.os;

public class BatteryManager {
    /** Microamperes. */
    public int getIntProperty(int id) {
        return -500_000;
    }
}
